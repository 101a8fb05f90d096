package main

import (
	"errors"
	"strings"
	"testing"
)

func sampleReport() checkReport {
	return newCheckReport("new.json", []finding{
		{Name: checkInterface, Result: verdictOK, Found: "eth0 with address 192.0.2.1", Data: data{"mtu": 1500}},
		{Name: checkLeases, Result: verdictWarning, Found: "key\x1b[2J\nis not a lease", Advice: "delete it"},
		{Name: checkNetwork, Result: verdictSkipped, Found: "needs a valid network config"},
		{Name: checkMTU, Result: verdictSkipped, Found: "needs a valid network config"},
		{Name: checkKernel, Result: verdictSkipped, Found: "needs root"},
		{Name: checkDevices, Result: verdictNote, Found: "flannel.7 is <not> ours", Advice: "ip link del flannel.7"},
		{Name: checkPort, Result: verdictFailure, Found: "UDP port 8472 is in use", Advice: "choose another"},
	})
}

func TestCheckText(t *testing.T) {
	var b strings.Builder
	if err := sampleReport().write(&b); err != nil {
		t.Fatal(err)
	}
	want := `Checking what flanneld would meet on this host, network config from new.json

  ok       interface     eth0 with address 192.0.2.1
  warning  leases        key [2J is not a lease
                         -> delete it
  skipped  network       needs a valid network config (also mtu)
  skipped  kernel        needs root
  note     devices       flannel.7 is <not> ours
                         -> ip link del flannel.7
  failure  port          UDP port 8472 is in use
                         -> choose another

1 failure, 1 warning, 1 note, 3 skipped
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

// TestCheckJSON: scripts count on these names.
func TestCheckJSON(t *testing.T) {
	r := sampleReport()
	r.Checks = r.Checks[:2]
	var b strings.Builder
	if err := writeJSON(&b, r); err != nil {
		t.Fatal(err)
	}
	want := `{
  "ok": false,
  "source": "new.json",
  "failures": 1,
  "warnings": 1,
  "notes": 1,
  "skipped": 3,
  "checks": [
    {
      "name": "interface",
      "result": "ok",
      "found": "eth0 with address 192.0.2.1",
      "advice": "",
      "data": {
        "mtu": 1500
      }
    },
    {
      "name": "leases",
      "result": "warning",
      "found": "key\u001b[2J\nis not a lease",
      "advice": "delete it",
      "data": {}
    }
  ]
}
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestCheckSummary(t *testing.T) {
	for want, found := range map[string][]verdict{
		"0 failures, 0 warnings":           {verdictOK},
		"2 failures, 0 warnings":           {verdictFailure, verdictFailure},
		"0 failures, 1 warning, 2 notes":   {verdictWarning, verdictNote, verdictNote},
		"1 failure, 0 warnings, 1 skipped": {verdictFailure, verdictSkipped},
	} {
		var all []finding
		for _, v := range found {
			all = append(all, finding{Result: v})
		}
		r := newCheckReport("", all)
		if got := r.summary(); got != want || r.OK != strings.HasPrefix(want, "0 failures") {
			t.Errorf("%v: %q, ok %t, want %q", found, got, r.OK, want)
		}
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("no space left") }

func TestCheckUnwritableOutput(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		var stderr strings.Builder
		status := check(t.Context(), []string{"-o", format, "-"}, nil, strings.NewReader(`{"Network":"10.5.0.0/16"}`), brokenWriter{}, &stderr)
		if status != exitFailed || !strings.Contains(stderr.String(), "no space left") {
			t.Errorf("-o %s: status %d, stderr %q", format, status, stderr.String())
		}
	}
}

// findings runs the checks that need nothing but the config's text.
func configFindings(text string) []finding {
	c := &checker{text: []byte(text)}
	c.checkConfig()
	c.checkNetwork()
	return c.found
}

// wantFinding looks for a finding of that name and result whose text, advice
// included, has all the words.
func wantFinding(t *testing.T, found []finding, name string, result verdict, words ...string) {
	t.Helper()
next:
	for _, f := range found {
		if f.Name != name || f.Result != result {
			continue
		}
		for _, word := range words {
			if !strings.Contains(f.Found+" -> "+f.Advice, word) {
				continue next
			}
		}
		return
	}
	var all strings.Builder
	if err := newCheckReport("", found).write(&all); err != nil {
		t.Error(err)
	}
	t.Errorf("no %s of %s with %q in\n%s", result, name, words, &all)
}

func noFinding(t *testing.T, found []finding, name string, results ...verdict) {
	t.Helper()
	for _, f := range found {
		for _, r := range results {
			if f.Name == name && f.Result == r {
				t.Errorf("unexpected %s of %s: %s -> %s", r, name, f.Found, f.Advice)
			}
		}
	}
}
