mount --make-rprivate /; K=/tmp/top-clone/build/kshared; T=/tmp/topt/m3; mkdir -p $T; mount -t tmpfs none $T; cd $T
mkdir deep; python3 - <<'P'
import os
os.chdir('deep')
for i in range(3000): 
    os.mkdir('n'*200); os.chdir('n'*200)
    if i%100==0: open('f','w').write('x'*5000)
P
p=$(printf 'n%.0s' {1..200}); q="$(printf "*$p/%.0s" {1..500})zz"; echo ${#q}; timeout 5 $K folder top --exclude "${q}*" deep; echo rc=$?
cat > g.gdb <<'G'
set pagination off
run folder top --exclude $_p deep
G
ulimit -c 0
$K folder top --exclude "${q}*" deep & P=$!; sleep 3; kill -TERM $P; sleep .3; wait $P; echo "status $?"
mkdir s;  for i in 1 2 3; do mkdir s/$i; head -c 1M /dev/zero >s/$i/f; done
p=$(printf '*a%.0s' {1..40}); q=$(printf 'a%.0s' {1..250}); touch s/1/$q
$K folder top --exclude "${p}b" s & P=$!; sleep 2; kill -TERM $P; sleep .3; wait $P; echo "status $?"
$K folder top --export --exclude "${p}b" s & P=$!; sleep 2; kill -TERM $P; sleep 2; kill -0 $P && echo still there; kill -TERM $P; wait $P; echo "status $?"
