package main

import (
	"errors"
	"flag"
	"fmt"
	"strconv"
	"time"

	"tweed/cmd/flanneld/flags"
)

// checkOptions is what the flags of `tweed check` say, and those of flanneld
// with the variables FLANNELD_*.
type checkOptions struct {
	flags.Options        // of flanneld
	file          string // of the network config; "-" is standard input, "" is etcd
	envFile       string // of systemd; empty for the variables of this process
	json          bool
	timeout       time.Duration
	askEtcd       bool         // without file, or if endpoints were given
	refused       []error      // what flanneld would end for
	ignored       []flags.Note // what flanneld would warn of
}

// checkFlagSet is flanneld's flags with our own beside them.
type checkFlagSet struct {
	*flags.Set
	format, envFile string
	timeout         time.Duration
}

func newCheckFlagSet() *checkFlagSet {
	s := &checkFlagSet{Set: flags.New("check")}
	s.StringVar(&s.format, "o", "text", "")
	s.StringVar(&s.envFile, "env-file", "", "")
	s.DurationVar(&s.timeout, "timeout", 10*time.Second, "")
	return s
}

// parseCheck returns flag.ErrHelp, or an error that names the flag, its value
// and what is valid. Of words that are not flags it tells nothing: one may be
// the rest of a password.
func parseCheck(args, environ []string) (checkOptions, error) {
	// Once to learn which flags there are and where the others come from.
	typed := newCheckFlagSet()
	words, last, err := typed.parseAnywhere(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return checkOptions{}, err
	case err != nil:
		return checkOptions{}, usageError{typed.Explain(err)}
	case len(words) > 1:
		return checkOptions{}, usageError{fmt.Errorf("%d words are not flags, the first of them behind %s: want one CONFIGFILE or -, and switches as -flag=true", len(words), last)}
	case len(words) == 1 && (last == "-etcd-password" || boolText(words[0])):
		return checkOptions{}, usageError{fmt.Errorf("the word behind %s and its value is not a flag, and flanneld would ignore whatever follows: want switches as -flag=true, and blanks in quotes", last)}
	case typed.format != "text" && typed.format != "json":
		return checkOptions{}, usageError{fmt.Errorf("-o %q: want text or json", typed.format)}
	case typed.timeout < 100*time.Millisecond || typed.timeout > 10*time.Minute:
		return checkOptions{}, usageError{fmt.Errorf("-timeout %s: want 100ms to 10m", typed.timeout)}
	}
	o := checkOptions{json: typed.format == "json", timeout: typed.timeout, envFile: typed.envFile}
	if len(words) == 1 {
		o.file = words[0]
	}
	s := newCheckFlagSet()
	if o.envFile != "" {
		vars, err := readEnvFile(o.envFile)
		if err != nil {
			return checkOptions{}, usageError{fmt.Errorf("-env-file: %w", err)}
		}
		environ = vars.environ()
		// As flanneld reads them: what follows a stray word does not count.
		notes, err := s.ParseWords(append([]string{"FLANNEL_OPTIONS"}, vars.options()...))
		if err != nil {
			o.refused = append(o.refused, fmt.Errorf("FLANNEL_OPTIONS of %s: %w", o.envFile, err))
		}
		o.ignored = notes
	}
	// What was typed wins over what the service has.
	typed.Visit(func(f *flag.Flag) { s.Clear(f.Name) })
	if _, _, err := s.parseAnywhere(args); err != nil {
		return checkOptions{}, usageError{err} // not reached: it was parsed above
	}
	o.ignored = append(o.ignored, s.ApplyEnv(environ)...)
	if s.Version() {
		o.refused = append(o.refused, errors.New("-version prints the version, and nothing is started"))
	}
	opts, notes, err := s.Options()
	o.Options, o.ignored = opts, append(o.ignored, notes...)
	if err != nil {
		o.refused = append(o.refused, err)
	}
	s.Visit(func(f *flag.Flag) { o.askEtcd = o.askEtcd || f.Name == "etcd-endpoints" })
	o.askEtcd = o.askEtcd || o.file == ""
	return o, nil
}

// boolText reports whether word looks like the value of a switch, as in
// "-ip-masq true", rather than a file.
func boolText(word string) bool {
	_, err := strconv.ParseBool(word)
	return err == nil && len(word) > 1
}

// parseAnywhere reads flags also behind words that are none. last is the flag
// before the first such word.
func (s *checkFlagSet) parseAnywhere(args []string) (words []string, last string, err error) {
	last = "the command"
	for {
		if err := s.Parse(args); err != nil {
			return nil, "", err
		}
		rest := s.Args()
		if len(words) == 0 {
			last = s.LastFlag(append([]string{last}, args[:len(args)-len(rest)]...))
		}
		if len(rest) == 0 {
			return words, last, nil
		}
		words, args = append(words, rest[0]), rest[1:]
	}
}

// checkFlags tells what flanneld would make of flags and variables.
func (c *checker) checkFlags() {
	for _, err := range c.opts.refused {
		c.add(finding{Name: checkFlags, Result: verdictFailure, Found: err.Error(), Advice: "flanneld would not start: change or remove it"})
	}
	for _, note := range c.opts.ignored {
		c.add(finding{Name: checkFlags, Result: verdictWarning, Found: note.Text, Advice: "correct or remove it: flanneld only says so in its log"})
	}
}
