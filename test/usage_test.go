package test

import (
	"bytes"
	"errors"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// TestUsage has what is answered on stderr with exit status 0, as with
// flannel, whatever else there is on the command line or in the environment.
func TestUsage(t *testing.T) {
	program := binary(t, "flanneld")
	for _, tt := range []struct {
		args []string
		env  []string
		want []string
	}{
		{[]string{"-version"}, nil, nil},
		{[]string{"--version=true", "-subnet-lease-renew-margin=0"}, []string{"FLANNELD_PUBLIC_IP=x"}, nil},
		{[]string{"-h"}, nil, []string{"Usage: " + program + " [OPTION]...", "  -etcd-endpoints URLs", "  -subnet-lease-renew-margin minutes", "FLANNELD_IP_MASQ"}},
		{[]string{"-ip-masq", "--help"}, nil, []string{"Usage: "}},
		{[]string{"-ip-mask"}, nil, []string{"Usage: ", "flag provided but not defined: -ip-mask (did you mean -ip-masq?)"}},
		{[]string{"-networks=a"}, nil, []string{"flag provided but not defined: -networks"}},
		{[]string{"-healthz-port=http"}, nil, []string{`invalid value "http" for flag -healthz-port: want a whole number`}},
		{[]string{"-ip-masq=maybe"}, nil, []string{`invalid boolean value "maybe" for -ip-masq: want true or false`}},
		{[]string{"-iface"}, nil, []string{"flag needs an argument: -iface"}},
	} {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			cmd := exec.Command(program, tt.args...)
			cmd.Env = tt.env
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			err := cmd.Run()
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				t.Errorf("exit status %d, want 0", exit.ExitCode())
			} else if err != nil {
				t.Fatal(err)
			}
			if stdout.Len() > 0 {
				t.Errorf("on stdout: %q", &stdout)
			}
			wantTexts(t, stderr.String(), tt.want...)
			if tt.want == nil && !regexp.MustCompile(`^\S+\n$`).MatchString(stderr.String()) {
				t.Errorf("stderr is %q, want one version", &stderr)
			}
		})
	}
}
