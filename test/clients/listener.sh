#!/usr/bin/env bash
# Charges for sagas, and refunds what failed ones have charged: a listener in bash,
# with psql and curl.
#
# usage: listener.sh [CHANNEL]
#
# PG* say where the database is (a direct connection: LISTEN needs one),
# PAYMENTS_URL where the payment service is.
set -u
channel=${1:-refunds}
lease="${LEASE:-60} seconds"
heartbeat=30            # look without being woken, every so many seconds
poll=2                  # until a notification has arrived, or where none does
me="psql $(uname -n) $$"
probe="probe $me"
answer=$(mktemp)
stopping=

log() { printf '%s %s\n' "$(date +%FT%T)" "$*" >&2; }

# SQL from standard input; -v name=value makes :'name' a literal, :"name" a name.
sql() { psql -XqAt -F ' ' -v ON_ERROR_STOP=1 -v channel="$channel" "$@"; }

# A line once the channel is open, and one for every notification.  psql looks
# for them when it has run something, so every second it gets nothing to run.
wakes() {
	exec psql -XqAt -v channel="$channel" -v probe="$probe" < <(
		printf '%s\n' 'LISTEN :"channel"; LISTEN :"probe";' '\echo listening'
		while sleep 1 && kill -0 $$; do echo ';'; done 2>/dev/null)
}

# The effect.  It may be asked for more than once; the key makes it one.
ask() {
	curl -sS --max-time 20 -o "$answer" -D - "$PAYMENTS_URL/$2" \
		-H 'Content-Type: application/json' -H "Idempotency-Key: $1" -d "$3" | tr -d '\r' |
		awk '/^HTTP/ { status = $2 } tolower($1) == "retry-after:" && $2 ~ /^[0-9]+$/ { later = $2 " seconds" }
			END { print status + 0, later }'
}

# Claims a task and does it.  Fails if there is none.
work() {
	local key attempt path body status later retryable=true
	read -r key attempt path body < <(sql -v lease="$lease" -v me="$me" <<'SQL'
SELECT task_key, attempt,
	CASE phase WHEN 'forward' THEN 'charges' ELSE 'refunds' END,
	CASE phase WHEN 'forward' THEN jsonb_build_object('cents', context->'args'->'cents')
		ELSE jsonb_build_object('charge', context->'forward_key') END
FROM saga.claim_tasks(:'channel', lease => :'lease', consumer => :'me');
SQL
	) || return 1
	: >"$answer"
	read -r status later < <(ask "$key" "$path" "$body")
	case $path$status in
		refunds404)                                     # never charged: nothing to refund
			echo '{"refund": null}' >"$answer"
			status=200 ;;
		*4??) [ -n "$later" ] || retryable=false ;;
	esac
	case $status in
		200) sql -v key="$key" -v output="$(<"$answer")" ;;
		*) sql -v key="$key" -v attempt="$attempt" -v error="$status $(<"$answer")" \
			-v retryable=$retryable -v later="$later" ;;
	esac >/dev/null <<'SQL'
\if :{?output}
	SELECT saga.complete_task(:'key', :'output');
\else
	SELECT saga.fail_task(:'key', :attempt, :'error', :retryable, nullif(:'later', '')::interval);
\endif
SQL
}

trap 'stopping=1; kill ${listening-}' TERM INT     # what is claimed is done first
trap 'kill ${listening-} 2>/dev/null; rm -f "$answer"' EXIT
pause=1
while [ -z "$stopping" ]; do
	exec 3< <(wakes)
	listening=$!
	beat=$poll asked=
	# Never sleeps while there is work: it claims first, and then waits.
	while read -r -t $beat -u 3 line || [ $? -gt 128 ]; do
		case $line in
			listening)
				# Through a pooler that shares connections this never arrives.
				log "$line"; pause=1 asked=$SECONDS
				sql -v probe="$probe" >/dev/null <<<"SELECT pg_notify(:'probe', '');" ;;
			*"$probe"*) beat=$heartbeat asked= ;;
		esac
		if [ -n "$asked" ] && [ $((SECONDS - asked)) -gt 5 ]; then
			log "notifications do not arrive: connect directly, not through a pooler; polling every $poll s"
			asked=
		fi
		while [ -z "$stopping" ] && work; do :; done
	done
	[ -n "$stopping" ] || { log "disconnected"; sleep $pause; pause=$((pause < 8 ? pause * 2 : 10)); }
done
log stopped
