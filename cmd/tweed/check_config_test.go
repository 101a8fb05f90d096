package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tweed/cmd/flanneld/flags"
)

func TestCheckConfigTexts(t *testing.T) {
	for _, tt := range []struct {
		text   string
		name   string
		result verdict
		words  []string
	}{
		{`{"Network":"10.5.0.0/16"}`, checkConfig, verdictOK, []string{"10.5.0.0/16", "udp", "no Backend"}},
		{`{"Network":"10.5.0.0/16"}`, checkNetwork, verdictOK, []string{"255 subnets", "from 10.5.1.0/24 to 10.5.255.0/24", "254 addresses"}},
		{`{"Network":"172.17.0.0/16","Backend":{"Type":"vxlan"}}`, checkConfig, verdictOK, []string{"172.17.0.0/16, backend vxlan"}},
		{`{"network":"10.5.0.0/28","BACKEND":{"type":"ALLOC"}}`, checkNetwork, verdictOK, []string{"3 subnets", "/30", "2 addresses"}},
		{`{"Network":"10.5.0.0/16","SubnetLen":26,"SubnetMin":"10.5.8.0","SubnetMax":"10.5.8.64"}`, checkNetwork, verdictOK, []string{"2 subnets", "from 10.5.8.0/26 to 10.5.8.64/26", "62"}},

		{``, checkConfig, verdictFailure, []string{"empty", "JSON object"}},
		{`[]`, checkConfig, verdictFailure, []string{"JSON object"}},
		{`{"Network":"10.5.0.0/16"`, checkConfig, verdictFailure, []string{"not JSON"}},
		{`{"Network":"10.5.0.0/16"} x`, checkConfig, verdictFailure, []string{"not JSON"}},
		{`{}`, checkConfig, verdictFailure, []string{"Network", "10.5.0.0/16"}},
		{`{"Network":"10.5.0.0"}`, checkConfig, verdictFailure, []string{`"10.5.0.0"`, "CIDR"}},
		{`{"Network":"fd00::/64"}`, checkConfig, verdictFailure, []string{"fd00::/64", "IPv4"}},
		{`{"Network":5}`, checkConfig, verdictFailure, []string{"Network", "text in quotes"}},
		{`{"Network":"10.5.0.0/16","SubnetLen":17}`, checkConfig, verdictFailure, []string{"SubnetLen 17", "18 to 30"}},
		{`{"Network":"10.5.0.0/16","SubnetMin":"10.6.0.0"}`, checkConfig, verdictFailure, []string{"SubnetMin 10.6.0.0"}},
		{`{"Network":"10.5.0.0/16","SubnetMin":"10.5.9.0","SubnetMax":"10.5.8.0"}`, checkConfig, verdictFailure, []string{"SubnetMin 10.5.9.0", "SubnetMax 10.5.8.0"}},
		{`{"Network":"10.5.0.0/16","Backend":{}}`, checkConfig, verdictFailure, []string{`Type ""`, "alloc, host-gw, udp, vxlan"}},
		{`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlam"}}`, checkConfig, verdictFailure, []string{`"vxlam"`, `did you mean "vxlan"?`}},
		{`{"Network":"10.5.0.0/16","Backend":{"Type":"wireguard"}}`, checkConfig, verdictFailure, []string{`"wireguard"`}},
		{`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":-1}}`, checkConfig, verdictFailure, []string{"VNI", "-1", "0 to"}},
		{`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","Port":"8472"}}`, checkConfig, verdictFailure, []string{"Port", "whole number"}},
		{`{"Network":"10.5.0.0/16","Backend":{"Type":"udp","Port":0}}`, checkConfig, verdictFailure, []string{"Port 0", "1 to 65535"}},
		{`{"Network":"10.5.0.0/16","Backend":{"Type":"udp","SourceCheck":"yes"}}`, checkConfig, verdictFailure, []string{"SourceCheck", "strict"}},
		{`{"Network":"10.5.0.0/16","Backend":"vxlan"}`, checkConfig, verdictFailure, []string{"Backend", "JSON object"}},

		{`{"Network":"10.5.0.0/16","SubnetLenght":26}`, checkConfig, verdictNote, []string{"SubnetLenght", "ignored", "did you mean SubnetLen?"}},
		{`{"Network":"10.5.0.0/16","Comment":"x"}`, checkConfig, verdictNote, []string{"Comment", "ignored", "remove it"}},
		{`{"Network":"10.5.0.0/16","enableipv6":true}`, checkConfig, verdictNote, []string{"enableipv6", "later versions of flannel"}},
		{`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","DirectRoutting":true}}`, checkConfig, verdictNote, []string{"Backend: DirectRoutting", "did you mean DirectRouting?"}},
		{`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","MTU":1400}}`, checkConfig, verdictNote, []string{"Backend: MTU", "later versions"}},
		{`{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw","Port":1}}`, checkConfig, verdictNote, []string{"Backend: Port", "ignored"}},
		{`{"Network":"10.5.3.0/16"}`, checkNetwork, verdictNote, []string{"10.5.3.0/16 means 10.5.0.0/16"}},
		{`{"Network":"20.0.0.0/16"}`, checkNetwork, verdictNote, []string{"not private"}},
		{`{"Network":"10.0.0.0/7"}`, checkNetwork, verdictNote, []string{"not private"}},
	} {
		found := configFindings(tt.text)
		wantFinding(t, found, tt.name, tt.result, tt.words...)
		if tt.result == verdictFailure {
			noFinding(t, found, tt.name, verdictOK)
		}
	}
	// Of a backend that one field is wrong in, the others are known all the same.
	for _, text := range []string{`"vxlan","VNI":-1,"GBP":true`, `"udp","Port":0,"SourceCheck":"off"`, `"host-gw"`} {
		noFinding(t, configFindings(`{"Network":"10.5.0.0/16","Backend":{"Type":`+text+`}}`), checkConfig, verdictNote)
	}
	found := configFindings(`{"NETWORK":"10.5.0.0/16","subnetlen":24,"SubnetMin":"10.5.1.0","SubnetMax":"10.5.9.0","Backend":{"Type":"vxlan","vni":7,"Port":8472,"GBP":false,"DirectRouting":true}}`)
	noFinding(t, found, checkConfig, verdictNote, verdictWarning, verdictFailure)
}

func TestCheckReadsConfig(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good.json")
	if err := os.WriteFile(good, []byte(`{"Network":"10.5.0.0/16","Backend":{"Type":"alloc"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	large := filepath.Join(dir, "large.json")
	if err := os.WriteFile(large, make([]byte, maxConfig+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		good:                       "",
		filepath.Join(dir, "none"): "no such file",
		dir:                        "is a directory",
		large:                      "larger than",
	} {
		text, err := readText(t.Context(), file, nil)
		if want == "" && (err != nil || !strings.Contains(string(text), "alloc")) || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %q, %v, want %q", file, text, err, want)
		}
	}
}

// TestCheckIsBounded: standard input that says nothing does not hold it up.
func TestCheckIsBounded(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	var stdout, stderr strings.Builder
	began := time.Now()
	status := check(t.Context(), []string{"-timeout=200ms", "-"}, nil, r, &stdout, &stderr)
	if took := time.Since(began); status != exitFailed || took > 5*time.Second || !strings.Contains(stdout.String(), "no end within two thirds of -timeout") {
		t.Errorf("status %d after %s: %s%s", status, took, stdout.String(), stderr.String())
	}
}

func TestCheckIsInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stdout, stderr strings.Builder
	status := check(ctx, []string{"-"}, nil, strings.NewReader("{}"), &stdout, &stderr)
	if status != exitInterrupted || stdout.Len()+stderr.Len() > 0 {
		t.Errorf("status %d: %s%s", status, stdout.String(), stderr.String())
	}
}

func TestClosest(t *testing.T) {
	known := []string{"Port", "VNI", "GBP", "DirectRouting"}
	for word, want := range map[string]string{"Prot": "Port", "port": "Port", "VNID": "VNI", "Comment": "", "": "", "directrouting2": "DirectRouting", "X": ""} {
		if got := flags.Closest(word, known); got != want {
			t.Errorf("flags.Closest(%q) is %q, want %q", word, got, want)
		}
	}
}
