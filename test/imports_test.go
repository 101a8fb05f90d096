// Package test holds the tests of the whole: import rules, the real binaries
// in network namespaces, and faults.
package test

import (
	"encoding/json"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// allowed says which of our packages each package may import; "/..." stands
// for everything below. The longest matching entry rules a package.
var allowed = map[string][]string{
	"test":               {"ipam", "subnet", "subnet/...", "test/..."},
	"ipam":               {},
	"subnet":             {"ipam"},
	"subnet/etcdv2":      {"subnet"},
	"subnet/subnettest":  {"subnet"},
	"dataplane":          {},
	"dataplane/rtnl":     {},
	"dataplane/firewall": {},
	"dataplane/rawfd":    {},
	"dataplane/tun":      {"dataplane", "dataplane/rawfd"},
	"dataplane/udpsock":  {"dataplane", "dataplane/rawfd"},
	"backend":            {"subnet"},
	"backend/...":        {"backend", "subnet", "dataplane", "dataplane/..."},
	"cmd/flanneld":       {"cmd/flanneld/flags", "ipam", "subnet", "subnet/etcdv2", "backend", "backend/...", "dataplane", "dataplane/firewall", "dataplane/rtnl"},
	"cmd/flanneld/flags": {"backend", "subnet/etcdv2"},
	"cmd/mk-docker-opts": {"subnet"},
	// flags is all that it may have of another program: `tweed check` must read
	// flanneld's command line and environment as flanneld does.
	"cmd/tweed": {"cmd/flanneld/flags", "ipam", "subnet", "subnet/etcdv2", "backend", "backend/...", "dataplane", "dataplane/...", "test/lab", "test/load", "test/embedetcd"},
	"test/...":  {"subnet", "subnet/...", "test/..."},
}

type pkg struct {
	ImportPath string
	Imports    []string
}

// TestImports keeps the rule of who may import whom.
func TestImports(t *testing.T) {
	for _, p := range listPackages(t) {
		name := strings.TrimPrefix(p.ImportPath, "tweed/")
		rule, ok := ruleFor(name)
		if !ok {
			t.Errorf("%s: no import rule for this package; add one to the table or move it", name)
			continue
		}
		for _, imp := range p.Imports {
			ours, ok := strings.CutPrefix(imp, "tweed/")
			if ok && !slices.ContainsFunc(rule, func(pattern string) bool { return matches(pattern, ours) }) {
				t.Errorf("%s imports %s, allowed are %v", name, ours, rule)
			}
			if strings.HasPrefix(imp, "go.etcd.io/") && name != "subnet/etcdv2" && name != "test/embedetcd" {
				t.Errorf("%s imports %s: etcd belongs into subnet/etcdv2", name, imp)
			}
			if imp == "C" {
				t.Errorf("%s uses cgo", name)
			}
		}
	}
}

func TestImportRulesMatch(t *testing.T) {
	if matches("backend/...", "backend") || !matches("backend/...", "backend/udp") || matches("subnet", "subnet/etcdv2") {
		t.Error("patterns match wrongly")
	}
	if r, _ := ruleFor("dataplane/rtnl"); len(r) != 0 {
		t.Errorf("rule of dataplane/rtnl: %v", r)
	}
	if _, ok := ruleFor("util"); ok {
		t.Error("a package without a rule is accepted")
	}
}

func ruleFor(name string) (rule []string, ok bool) {
	if rule, ok = allowed[name]; ok {
		return rule, true
	}
	best := ""
	for pattern := range allowed {
		if matches(pattern, name) && len(pattern) > len(best) {
			best = pattern
		}
	}
	return allowed[best], best != ""
}

func matches(pattern, name string) bool {
	if dir, ok := strings.CutSuffix(pattern, "..."); ok {
		return strings.HasPrefix(name, dir)
	}
	return pattern == name
}

func listPackages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "tweed/...")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var all []pkg
	for dec := json.NewDecoder(out); ; {
		var p pkg
		if err := dec.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if err := cmd.Wait(); err != nil || len(all) == 0 {
		t.Fatalf("go list: %v, %d packages", err, len(all))
	}
	return all
}
