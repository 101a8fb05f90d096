// mk-docker-opts turns flanneld's subnet.env into options for dockerd. It is a
// drop-in for flannel's mk-docker-opts.sh; docker's systemd unit, or a shell,
// reads the file that it writes.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"tweed/subnet"
)

func main() { os.Exit(run(os.Args, os.Environ(), os.Stdout, os.Stderr)) }

// run returns the exit status: 0, or 1 for anything wrong, when the output is
// left as it was.
func run(args, environ []string, stdout, stderr io.Writer) int {
	fail := func(err error) int {
		fmt.Fprintf(stderr, "%s: %v\n", args[0], err)
		return 1
	}
	o, err := parseOptions(args[1:])
	if err != nil {
		io.WriteString(stderr, usageText(args[0]))
		if !errors.Is(err, errHelp) {
			fmt.Fprintln(stderr)
			return fail(err)
		}
		return 1
	}
	if len(o.ignored) > 0 {
		fmt.Fprintf(stderr, "%s: ignoring %q\n", args[0], o.ignored)
	}

	file, err := subnet.ReadEnvFile(o.flannelEnv)
	if errors.Is(err, os.ErrNotExist) {
		fmt.Fprintf(stderr, "%s: there is no %s: is flanneld running?\n", args[0], o.flannelEnv)
	} else if err != nil {
		return fail(fmt.Errorf("flannel's env file (-f): %w", err))
	}
	out, err := dockerEnv(o, variables(environ, file))
	if err != nil {
		return fail(err)
	}
	if o.dockerEnv == "-" || o.dockerEnv == "/dev/stdout" {
		_, err = stdout.Write(out)
	} else {
		err = writeFile(o.dockerEnv, out)
	}
	if err != nil {
		return fail(fmt.Errorf("write docker's env file %s (-d): %w", o.dockerEnv, err))
	}
	return 0
}
