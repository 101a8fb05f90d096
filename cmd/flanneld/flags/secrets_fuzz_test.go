package flags

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// FuzzSecrets: a password is never told, whatever stands around it and however
// its flag or variable is misspelled.
func FuzzSecrets(f *testing.F) {
	f.Add("-ip-masq", "-etcd-password=", "-nonsense", "FLANNELD_ETCD_PASSWORD")
	f.Add("-etcd-password", "", "-h", "FLANNELD_ETCD_PASWORD")
	f.Add("word", "-etcd-endpoints=http://root:", "@192.0.2.1:2379,", "FLANNELD_V")
	f.Add("", "---etcd-password=", "", "FLANNELD_ETCD-PASSWORD")
	f.Add("", "-etcd-pasword=", "", "flanneld_etcd_password")
	const secret = "pa55w0rd"
	f.Fuzz(func(t *testing.T, before, around, behind, variable string) {
		if strings.Contains(before+around+behind+variable, secret) || !mayHoldPassword(around) {
			return
		}
		args := append([]string{"flanneld"}, strings.Fields(before)...)
		args = append(append(args, around+secret), strings.Fields(behind)...)
		environ := []string{"FLANNELD_HEALTHZ_PORT=70000"}
		if name := variable; !strings.Contains(name, "=") && !isOther(name) {
			environ = append(environ, name+"="+secret)
		}
		var out bytes.Buffer
		_, notes, err := Parse(args, environ, "v1", &out)
		if told := fmt.Sprint(notes, out.String(), err); strings.Contains(told, secret) {
			t.Errorf("%q with %q: told %s", args, environ, told)
		}
	})
}

// mayHoldPassword reports whether what follows the text may be a password: a
// word of its own, or the value of a flag that is no other one of flanneld's.
func mayHoldPassword(text string) bool {
	name, _, value := strings.Cut(strings.TrimLeft(text, "-"), "=")
	if text == "" || !value {
		return text == "" || !strings.HasPrefix(text, "-") // a flag's name is told
	}
	f := New("x").Lookup(name)
	return f == nil || strings.HasPrefix(name, "etcd-password") || name == "etcd-endpoints"
}

// isOther reports whether the variable is that of a flag that is no secret.
func isOther(variable string) bool {
	for _, name := range New("x").own {
		if envName(name) == variable {
			return name != "etcd-password" && name != "etcd-endpoints"
		}
	}
	return false
}
