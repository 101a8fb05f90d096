package test

import (
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tweed/test/embedetcd"
	"tweed/test/lab"
)

// told returns all that the daemon with -healthz-port=8081 tells, by where: the
// log with the counters of SIGUSR1, systemd's messages, each path of the health
// port as text and as JSON, and the command line if wanted.
func (n *node) told(commandLine bool) map[string]string {
	n.c.t.Helper()
	all := map[string]string{
		"the dump":     n.dump(),
		"the messages": strings.Join(n.daemon.Notified(), "\n"),
	}
	for _, path := range []string{"/healthz", "/readyz", "/metrics", "/"} {
		for _, accept := range []string{"", "application/json"} {
			_, body, err := n.request("GET", "http://127.0.0.1:8081"+path, accept)
			n.c.must(err)
			all[path+" "+accept] = body
		}
	}
	if commandLine {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", n.daemon.PID))
		n.c.must(err)
		all["the command line"] = string(b)
	}
	info, err := os.Stat(fmt.Sprintf("/proc/%d/environ", n.daemon.PID))
	n.c.must(err)
	if info.Mode().Perm() != 0o400 {
		n.c.t.Errorf("the environment has mode %v", info.Mode())
	}
	all["the log"] = n.output()
	return all
}

// checkTold returns what tweed check says, as text and as JSON.
func (n *node) checkTold(env []string, args ...string) map[string]string {
	n.c.t.Helper()
	all := make(map[string]string)
	for _, form := range []string{"text", "json"} {
		p, err := n.Start(n.c.ctx, lab.Command{Name: "check", Path: binary(n.c.t, "tweed"), Env: env,
			Args: n.checkArgs(form, args...)})
		n.c.must(err)
		_, err = p.Wait(n.c.ctx)
		n.c.must(err)
		all["tweed check as "+form] = strings.Join(p.Lines(), "\n")
	}
	return all
}

func (n *node) checkArgs(form string, args ...string) []string {
	return append([]string{"check", "-o=" + form}, n.fileArgs(args...)...)
}

// TestPasswordIsNowhere runs the daemon and the check with a password that is
// right or wrong, given in each way there is.
func TestPasswordIsNowhere(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	c.set(configKey, config(`"udp"`), 0)
	const user, secret, wrong = "flannel", "pa55word-x", "pa55wrong-x"
	c.admin(etcdAddr, "PUT", "/v2/auth/users/root", `{"user":"root","password":"`+rootPassword+`"}`)
	c.admin(etcdAddr, "PUT", "/v2/auth/roles/net", `{"role":"net","permissions":{"kv":{"read":["/coreos.com/*"],"write":["/coreos.com/*"]}}}`)
	c.admin(etcdAddr, "PUT", "/v2/auth/users/"+user, `{"user":"`+user+`","password":"`+secret+`","roles":["net"]}`)
	c.admin(etcdAddr, "PUT", "/v2/auth/enable", "")
	c.admin(etcdAddr, "DELETE", "/v2/auth/roles/guest", "")
	n := c.addHost()
	for _, password := range []string{secret, wrong} {
		for _, tt := range []struct {
			name string
			env  []string
			args []string
		}{
			{"environment", []string{"FLANNELD_ETCD_USERNAME=" + user, "FLANNELD_ETCD_PASSWORD=" + password}, []string{"-etcd-endpoints=http://" + etcdAddr}},
			{"flag", nil, []string{"-etcd-endpoints=http://" + etcdAddr, "-etcd-username=" + user, "-etcd-password=" + password}},
			{"URL", nil, []string{"-etcd-endpoints=http://" + user + ":" + password + "@20.0.0.1:1,http://" + user + ":" + password + "@" + etcdAddr}},
		} {
			c.step(tt.name+", "+password, func() {
				n.launchWith(tt.env, n.fileArgs(append(tt.args, "-v=10", "-healthz-port=8081")...)...)
				if password == secret {
					n.wantHealth("/readyz", 200)
				} else {
					n.wantLog(noConfig)
				}
				all := n.told(tt.env != nil)
				n.stop()
				for where, text := range n.checkTold(tt.env, tt.args...) {
					wantTexts(c.t, text, "etcd")
					all[where] = text
				}
				for where, text := range all {
					wantNoSecret(c.t, where, text)
				}
			})
		}
	}
}

// TestKeyIsNowhere does the same with a client certificate, and looks for its
// key.
func TestKeyIsNowhere(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	ca, err := embedetcd.NewCA(t.TempDir(), "ca")
	c.must(err)
	server, err := ca.Issue("server", []string{"20.0.0.1"}, time.Time{})
	c.must(err)
	client, err := ca.Issue("client", nil, time.Time{})
	c.must(err)
	s := c.serve("20.0.0.1:2402", embedetcd.Options{TLS: &server})
	c.must(s.Set(c.ctx, configKey, config(`"udp"`), 0))
	text, err := os.ReadFile(client.KeyFile)
	c.must(err)
	block, _ := pem.Decode(text)
	coded := base64.StdEncoding.EncodeToString(block.Bytes)
	damaged := filepath.Join(t.TempDir(), "damaged.key")
	c.must(os.WriteFile(damaged, []byte(strings.Replace(string(text), "PRIVATE KEY", "PRIVATE KEYS", 1)), 0o600))
	n := c.addHost()
	args := []string{"-etcd-endpoints=https://20.0.0.1:2402", "-etcd-cafile=" + ca.File, "-etcd-certfile=" + client.CertFile}
	clean := func(all map[string]string) {
		for where, text := range all {
			for at := 0; at+16 <= len(coded); at += 8 {
				if strings.Contains(text, coded[at:at+16]) && at >= 40 { // behind the algorithm, which is no secret
					c.t.Errorf("%s has a piece of the key", where)
				}
			}
			if strings.Contains(text, "PRIVATE KEY") || strings.Contains(text, string(block.Bytes[len(block.Bytes)-20:])) {
				c.t.Errorf("%s has a key:\n%s", where, text)
			}
		}
	}
	n.launch(append(args, "-etcd-keyfile="+client.KeyFile, "-v=10", "-healthz-port=8081")...)
	n.wantHealth("/readyz", 200)
	all := n.told(true)
	n.stop()
	clean(all)
	clean(n.checkTold(nil, append(args, "-etcd-keyfile="+client.KeyFile)...))
	for _, key := range []string{damaged, ca.File, client.CertFile} {
		n.launch(append(args, "-etcd-keyfile="+key, "-v=10")...)
		clean(map[string]string{"the log": n.wantExit(1)})
		clean(n.checkTold(nil, append(args, "-etcd-keyfile="+key)...))
	}
}

// TestFileModes looks at every file and folder that the programs leave behind.
func TestFileModes(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	c.set(configKey, config(`"udp"`), 0)
	n := c.addHost()
	root := n.Path("files")
	c.must(os.Mkdir(root, 0o755))
	env := filepath.Join(root, "run", "flannel", "subnet.env")
	n.launch("-subnet-file="+env, "-state-dir="+filepath.Join(root, "lib", "flanneld"))
	c.must(n.daemon.WaitReady(c.ctx))
	for name, words := range map[string][]string{
		"mk-docker-opts": {"-f", env, "-d", filepath.Join(root, "docker_opts.env")},
		"tweed":          {"check", "-o=json", "-etcd-endpoints=http://" + etcdAddr, "-subnet-file=" + env},
	} {
		p, err := n.Start(c.ctx, lab.Command{Name: name, Path: binary(t, name), Args: words})
		c.must(err)
		_, err = p.Wait(c.ctx)
		c.must(err)
	}
	want := map[string]fs.FileMode{
		"run":                    fs.ModeDir | 0o755,
		"run/flannel":            fs.ModeDir | 0o755,
		"run/flannel/subnet.env": 0o644, // docker's unit and the pods' tools read it
		"lib":                    fs.ModeDir | 0o755,
		"lib/flanneld":           fs.ModeDir | 0o755,
		"docker_opts.env":        0o644,
	}
	state := 0
	c.must(filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, path)
		mode, ok := want[name]
		if filepath.Dir(name) == "lib/flanneld" {
			state++
			mode, ok = 0o600, true
		}
		if !ok || info.Mode() != mode {
			t.Errorf("%s has mode %v, want %v (known: %v)", name, info.Mode(), mode, ok)
		}
		delete(want, name)
		return nil
	}))
	if len(want) > 0 || state == 0 {
		t.Errorf("not there: %v, and %d files of state", want, state)
	}
}
