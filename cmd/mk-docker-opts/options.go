package main

import (
	"errors"
	"fmt"
	"regexp"
)

// options is what the command line says.
type options struct {
	flannelEnv string   // -f
	dockerEnv  string   // -d; "-" for the standard output
	individual bool     // -i
	combined   bool     // -c
	key        string   // -k
	omitIPMasq bool     // -m
	ignored    []string // the words behind the options
}

var errHelp = errors.New("help asked for")

// shellName is what a shell and systemd take for the name of a variable.
var shellName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// parseOptions reads options as getopts(1) of the shell does: letters may be
// joined (-ic), a value may follow its letter at once or as the next word, and
// the first other word or "--" ends them. Of a repeated option the last counts.
func parseOptions(args []string) (options, error) {
	o := options{flannelEnv: "/run/flannel/subnet.env", dockerEnv: "/run/docker_opts.env", key: "DOCKER_OPTS"}
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		letters := args[0][1:]
		args = args[1:]
		if letters == "-" {
			break
		}
		for letters != "" {
			letter := letters[0]
			letters = letters[1:]
			var value *string
			switch letter {
			case 'i':
				o.individual = true
			case 'c':
				o.combined = true
			case 'm':
				o.omitIPMasq = true
			case 'f':
				value = &o.flannelEnv
			case 'd':
				value = &o.dockerEnv
			case 'k':
				value = &o.key
			case 'h', '?':
				return o, errHelp
			default:
				return o, fmt.Errorf("unknown option -%c", letter)
			}
			if value == nil {
				continue
			}
			if letters == "" {
				if len(args) == 0 {
					return o, fmt.Errorf("option -%c needs a value", letter)
				}
				letters, args = args[0], args[1:]
			}
			*value, letters = letters, ""
		}
	}
	o.ignored = args
	if !o.individual && !o.combined {
		o.individual, o.combined = true, true
	}
	if !shellName.MatchString(o.key) {
		return o, fmt.Errorf("-k %q: want the name of a variable, such as DOCKER_NETWORK_OPTIONS", o.key)
	}
	if o.dockerEnv == "" {
		return o, errors.New(`-d "": want a file name, or - for the standard output`)
	}
	return o, nil
}

func usageText(name string) string {
	return fmt.Sprintf(`%[1]s [-f FLANNEL-ENV-FILE] [-d DOCKER-ENV-FILE] [-i] [-c] [-m] [-k COMBINED-KEY]

Write options for dockerd, made from the subnet that flanneld has leased.

OPTIONS:
	-f FILE	read flannel's variables from FILE (default /run/flannel/subnet.env);
		it is read as lines NAME=value and never executed.
		Without the file there are no options to write
	-d FILE	write docker's variables to FILE (default /run/docker_opts.env),
		or to the standard output with -d -
	-i	write each option as a variable of its own, such as DOCKER_OPT_MTU="--mtu=1450"
	-c	write all options as one variable; -i and -c together are the default
	-k KEY	name of that variable (default DOCKER_OPTS)
	-m	leave out --ip-masq, for a very old Docker that does not know it
	-h	show this text and exit with status 1

Variables DOCKER_OPT_* of the environment are added as further options, and a
value that KEY has already is kept in front.

EXAMPLE:
	%[1]s -k DOCKER_NETWORK_OPTIONS -d /run/flannel/docker
	in docker.service:
		EnvironmentFile=/run/flannel/docker
		ExecStart=/usr/bin/dockerd $DOCKER_NETWORK_OPTIONS
`, name)
}
