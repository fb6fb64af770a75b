# SPDX-License-Identifier: GPL-2.0-or-later
# bash completion for kshared(1): commands, options, and names from `kshared ls`.

# Names in folder $1 of the folder, for what has been typed; names with control characters are left out.
_kshared_names()
{
	local name

	COMPREPLY=()
	while IFS= read -r name; do
		[[ $name == *[[:cntrl:]]* ]] && continue
		[[ ${2}$name == "$cur"* ]] && COMPREPLY+=("$(printf '%q' "${2}$name")")
	done < <("${kshared[@]}" ls "$1" 2>/dev/null)
}

_kshared_words()
{
	mapfile -t COMPREPLY < <(compgen -W "$1" -- "$cur")
}

# Names of rings, also in boards.
_kshared_rings()
{
	local name

	COMPREPLY=()
	# The name is the last of six words of a line; what is escaped in it cannot be typed.
	while read -r _ _ _ _ _ name; do
		[[ $name == "$cur"* && $name != *\\* ]] && COMPREPLY+=("$(printf '%q' "$name")")
	done < <("${kshared[@]}" ring ls 2>/dev/null)
}

# A path inside the folder: srv/NAME.
_kshared_path()
{
	if [[ $cur == */* ]]; then
		_kshared_names "${cur%/*}" "${cur%/*}/"
	else
		_kshared_names "" ""
		[[ ${#COMPREPLY[@]} -eq 1 ]] && COMPREPLY[0]+=/ && compopt -o nospace
	fi
}

# The name of a port; then fields of the one that has been named; with write, up to the value.
_kshared_fields()
{
	local word before= name= field rest

	for word in "${COMP_WORDS[@]:i_verb+1:COMP_CWORD-i_verb-1}"; do
		[[ $word != -* && $before != -n && $before != --interval ]] && name=$word && break
		before=$word
	done
	if [[ -z $name ]]; then
		_kshared_names port ""
		return
	fi
	while read -r field rest; do
		[[ $field == "$cur"* ]] && COMPREPLY+=("$field")
	done < <("${kshared[@]}" port read "$name" 2>/dev/null)
	if [[ $verb == write ]]; then
		COMPREPLY=("${COMPREPLY[@]/%/=}")
		compopt -o nospace
	fi
}

_kshared()
{
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
	local i=1 i_verb=0 command= verb=
	local -a kshared=("${COMP_WORDS[0]}")
	local limits="--max-bytes --max-bytes-uid --max-entries --max-entries-uid --mode"

	COMPREPLY=()
	while ((i < COMP_CWORD)); do
		case ${COMP_WORDS[i]} in
		--at)
			((i + 1 < COMP_CWORD)) && kshared+=(--at "${COMP_WORDS[i+1]}")
			((i++))
			;;
		-*) ;;
		*)
			if [[ -z $command ]]; then
				command=${COMP_WORDS[i]}
			elif [[ -z $verb ]]; then
				verb=${COMP_WORDS[i]} i_verb=$i
			fi
			;;
		esac
		((i++))
	done

	case $prev in
	--at)
		compopt -o filenames
		mapfile -t COMPREPLY < <(compgen -d -- "$cur")
		return
		;;
	--file | --unix)
		compopt -o filenames
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		return
		;;
	--huge)
		_kshared_words "2M 1G"
		return
		;;
	--tcp)
		mapfile -t COMPREPLY < <(compgen -A hostname -S : -- "$cur")
		compopt -o nospace
		return
		;;
	--policy)
		_kshared_words "kill revoke log"
		return
		;;
	--cgroup)
		compopt -o filenames
		mapfile -t COMPREPLY < <(compgen -d -- "$cur")
		return
		;;
	--pid)
		mapfile -t COMPREPLY < <(compgen -W "$(cd /proc && echo [0-9]*)" -- "$cur")
		return
		;;
	--shape)
		_kshared_words "one-to-one many-to-one broadcast"
		return
		;;
	--slots | --slot-size | --data | --writers | --readers | --timeout)
		return
		;;
	--fd | --mode | --range | --interval | --period | --linger | --max-* | --number | --depth | --exclude)
		return
		;;
	esac

	case $command in
	"") _kshared_words "up down status doctor ls srv mem ring port ksm rm folder help --at --version --help" ;;
	up)
		if [[ $cur == -* ]]; then
			_kshared_words "$limits --help"
		else
			compopt -o filenames
			mapfile -t COMPREPLY < <(compgen -d -- "$cur")
		fi
		;;
	down) _kshared_words "--lazy --help" ;;
	status | doctor) _kshared_words "--json --help" ;;
	ls)
		if [[ $cur == -* ]]; then
			_kshared_words "-l --json --help"
		else
			_kshared_path
		fi
		;;
	rm) _kshared_path ;;
	help)
		case $verb in
		"") _kshared_words "up down status doctor ls srv mem ring port ksm rm folder" ;;
		srv) _kshared_words "post open rm" ;;
		mem) _kshared_words "create seal rm" ;;
		ring) _kshared_words "create ls stat watch send recv rm" ;;
		port) _kshared_words "ls read write watch add rule serve" ;;
		ksm) _kshared_words "create merge unmerge stat ls rm" ;;
		folder) _kshared_words "top" ;;
		esac
		;;
	folder)
		if [[ -z $verb ]]; then
			_kshared_words "top --help"
		elif [[ $prev == -[nd] ]]; then
			return
		elif [[ $cur == -* ]]; then
			_kshared_words "-n -h -b -d -x -0 --number --human-readable --bytes --depth --files
				--apparent-size --count --one-file-system --exclude --null --json --export --help"
		else
			compopt -o filenames
			mapfile -t COMPREPLY < <(compgen -d -- "$cur")
		fi
		;;
	srv)
		case $verb in
		"") _kshared_words "post open rm --help" ;;
		post) _kshared_words "--fd --unix --tcp --file --read-only --write-only --append --mode" ;;
		open)
			if [[ $cur == -* ]]; then
				_kshared_words "--fd --read-only --write-only --reopen --linger --"
			else
				_kshared_names srv ""
			fi
			;;
		rm) _kshared_names srv "" ;;
		esac
		;;
	port)
		case $verb in
		"") _kshared_words "ls read write watch add rule serve --help" ;;
		ls) _kshared_words "--json" ;;
		read | write | watch)
			if [[ $prev == -n ]]; then
				return
			elif [[ $cur == -* ]]; then
				case $verb in
				read) _kshared_words "--json" ;;
				write) _kshared_words "--polled" ;;
				watch) _kshared_words "-n --interval --json" ;;
				esac
			else
				_kshared_fields
			fi
			;;
		add) _kshared_words "--pid --cgroup --mode" ;;
		rule) _kshared_words "--cgroup --mode" ;;
		serve) _kshared_words "--mode --replace --policy --period" ;;
		esac
		;;
	ksm)
		case $verb in
		"") _kshared_words "create merge unmerge stat ls rm --help" ;;
		create) _kshared_words "--mode" ;;
		merge)
			if [[ $cur == -* ]]; then
				_kshared_words "--pid --guest-ram --force --range --dry-run --json"
			else
				_kshared_names ksm ""
			fi
			;;
		unmerge)
			if [[ $cur == -* ]]; then
				_kshared_words "--pid --guest-ram --range --json"
			else
				_kshared_names ksm ""
			fi
			;;
		stat)
			if [[ $cur == -* ]]; then
				_kshared_words "--json"
			else
				_kshared_names ksm ""
			fi
			;;
		ls) _kshared_words "--json" ;;
		rm) _kshared_names ksm "" ;;
		esac
		;;
	mem)
		case $verb in
		"") _kshared_words "create seal rm --help" ;;
		create) _kshared_words "--mode --resizable --huge" ;;
		seal)
			if [[ $prev == seal ]]; then
				_kshared_names mem ""
			else
				_kshared_words "shrink grow write future-write seal"
			fi
			;;
		rm) _kshared_names mem "" ;;
		esac
		;;
	ring)
		if [[ -z $verb ]]; then
			_kshared_words "create ls stat watch send recv rm --help"
		elif [[ $cur == -* || $verb == create ]]; then
			case $verb in
			create) _kshared_words "--shape --slots --slot-size --data --writers --readers --blocking --protected --mode" ;;
			ls | stat) _kshared_words "--json" ;;
			watch) _kshared_words "--interval --json" ;;
			send) _kshared_words "--lines --null --raw --timeout --readers" ;;
			recv) _kshared_words "--lines --null --raw --timeout --keep --history" ;;
			esac
		elif [[ $verb != ls && $prev != -n ]]; then
			_kshared_rings
		fi
		;;
	esac
}

complete -F _kshared kshared
