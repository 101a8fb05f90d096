package main

import (
	"fmt"
	"io"
	"strings"
)

// A verdict is the result of one check. The texts are part of the JSON form.
type verdict string

const (
	verdictOK      verdict = "ok"
	verdictNote    verdict = "note"    // worth knowing
	verdictWarning verdict = "warning" // works, or may work, but not as it should
	verdictFailure verdict = "failure" // flanneld or the pods' network would not work
	verdictSkipped verdict = "skipped" // could not be looked at; Found says why
)

// The names of the checks, in the order in which flanneld meets what they are
// about. Several findings may have one name.
const (
	checkFlags      = "flags"
	checkInterface  = "interface"
	checkTLS        = "tls-files"
	checkEndpoint   = "endpoint"
	checkCluster    = "cluster"
	checkConfig     = "config"
	checkNetwork    = "network"
	checkLeases     = "leases"
	checkOverlap    = "overlap"
	checkMTU        = "mtu"
	checkPrivileges = "privileges"
	checkKernel     = "kernel"
	checkPort       = "port"
	checkDevices    = "devices"
	checkForward    = "ip-forward"
	checkRPFilter   = "rp-filter"
	checkBridgeNF   = "bridge-nf"
	checkFirewall   = "firewall"
	checkSubnetFile = "subnet-file"
	checkHealthz    = "healthz-port"
	checkDocker     = "docker"
)

// data is what a finding is about, for scripts.
type data map[string]any

// A finding is what one check has to say.
type finding struct {
	Name   string  `json:"name"`
	Result verdict `json:"result"`
	Found  string  `json:"found"`  // one line
	Advice string  `json:"advice"` // what to do, on one line; empty if there is nothing to do
	Data   data    `json:"data"`
}

// checkReport is all that `tweed check` found.
type checkReport struct {
	OK       bool      `json:"ok"` // no failure
	Source   string    `json:"source"`
	Failures int       `json:"failures"`
	Warnings int       `json:"warnings"`
	Notes    int       `json:"notes"`
	Skipped  int       `json:"skipped"`
	Checks   []finding `json:"checks"`
}

func newCheckReport(source string, found []finding) checkReport {
	r := checkReport{Source: source, Checks: found}
	for i, f := range found {
		if f.Data == nil {
			r.Checks[i].Data = data{}
		}
		switch f.Result {
		case verdictFailure:
			r.Failures++
		case verdictWarning:
			r.Warnings++
		case verdictNote:
			r.Notes++
		case verdictSkipped:
			r.Skipped++
		}
	}
	r.OK = r.Failures == 0
	return r
}

// write prints the report for eyes: a line for each finding, and the advice
// below it. Checks that were skipped for one reason share a line.
func (r checkReport) write(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Checking what flanneld would meet on this host, network config from %s\n\n", oneLine(r.Source))
	told := make(map[string]bool)
	for i, f := range r.Checks {
		text := oneLine(f.Found)
		if f.Result == verdictSkipped {
			if told[f.Found] {
				continue
			}
			told[f.Found] = true
			if also := skippedToo(r.Checks[i+1:], f.Found); also != "" {
				text += " (also " + also + ")"
			}
		}
		fmt.Fprintf(&b, "  %-7s  %-12s  %s\n", f.Result, f.Name, text)
		if f.Advice != "" {
			fmt.Fprintf(&b, "  %-7s  %-12s  -> %s\n", "", "", oneLine(f.Advice))
		}
	}
	fmt.Fprintf(&b, "\n%s\n", r.summary())
	_, err := io.WriteString(w, b.String())
	return err
}

// skippedToo names the checks that were skipped for the same reason.
func skippedToo(rest []finding, reason string) string {
	var names []string
	for _, f := range rest {
		if f.Result == verdictSkipped && f.Found == reason {
			names = append(names, f.Name)
		}
	}
	return strings.Join(names, ", ")
}

// summary is "1 failure, 2 warnings, 3 notes, 1 skipped".
func (r checkReport) summary() string {
	counted := func(n int, one string) string {
		if n == 1 {
			return "1 " + one
		}
		return fmt.Sprintf("%d %ss", n, one)
	}
	words := []string{counted(r.Failures, "failure"), counted(r.Warnings, "warning")}
	if r.Notes > 0 {
		words = append(words, counted(r.Notes, "note"))
	}
	if r.Skipped > 0 {
		words = append(words, fmt.Sprintf("%d skipped", r.Skipped))
	}
	return strings.Join(words, ", ")
}

// oneLine keeps what others wrote, such as a key in etcd, from changing the
// terminal or the form of the report.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}
