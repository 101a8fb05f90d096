#!/bin/sh
# Runs every fuzz target of the module with FUZZTIME inputs each (30000x), or for
# so long (10m); go test takes only one target at a time. The default is a count
# because go test sometimes takes the end of the time for a failure of the target.
# Making an input smaller, for which nothing else is tried, could take a minute.
set -eu
grep -ro --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sort | while IFS=: read -r file func; do
	dir=$(dirname "$file")
	target=${func#func }
	time=${FUZZTIME:-30000x}
	case $target:$time in
	FuzzTable:*0x | FuzzTLSFiles:*0x) time=${time%0x}x ;; # a whole world, and three files, for each input
	esac
	echo "fuzz $dir $target"
	go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 100x "$dir" </dev/null
done
