#!/bin/sh
# Runs every fuzz target of the module with FUZZTIME inputs each (10000x), or for
# so long (10m); go test takes only one target at a time. The default is a count
# because go test sometimes takes the end of the time for a failure of the target.
# Making an input smaller, for which nothing else is tried, could take a minute.
set -eu
grep -ro --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sort | while IFS=: read -r file func; do
	dir=$(dirname "$file")
	target=${func#func }
	echo "fuzz $dir $target"
	go test -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-10000x}" -fuzzminimizetime 100x "$dir" </dev/null
done
