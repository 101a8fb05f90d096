package embedetcd

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tweed/test/nstest"
)

func TestOperatorVerbs(t *testing.T) {
	ctx := context.Background()
	s := start(t, Options{Dir: t.TempDir(), NoSync: true})
	if err := s.Set(ctx, "/a/b", "one", 0); err != nil {
		t.Fatal(err)
	}
	if err := s.Set(ctx, "/a/c", "two", time.Minute); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Get(ctx, "a/b"); err != nil || r.Key != "/a/b" || r.Value != "one" || r.TTL != 0 || r.Index == 0 {
		t.Errorf("get /a/b: %+v, %v", r, err)
	}
	all, err := s.List(ctx, "/a")
	if err != nil || len(all) != 2 || all[1].Value != "two" || all[1].TTL <= 0 || all[1].TTL > time.Minute {
		t.Errorf("list /a: %+v, %v", all, err)
	}
	if err := s.Delete(ctx, "/a"); err != nil {
		t.Error(err)
	}
	if _, err := s.Get(ctx, "/a/b"); !errors.Is(err, ErrNotFound) {
		t.Errorf("get after delete: %v", err)
	}
	if err := s.Delete(ctx, "/a"); !errors.Is(err, ErrNotFound) {
		t.Errorf("delete twice: %v", err)
	}
	if err := s.Mkdir(ctx, "/d", 0); err != nil {
		t.Error(err)
	}
	if err := s.Set(ctx, "/d", "x", 0); err == nil || !strings.Contains(err.Error(), "/d") {
		t.Errorf("set on a directory: %v", err)
	}
}

func TestRestartKeepsDataAndAddress(t *testing.T) {
	ctx := context.Background()
	o := Options{Dir: t.TempDir(), Log: filepath.Join(t.TempDir(), "etcd.log")}
	s, err := Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Set(ctx, "/k", "v", 0); err != nil {
		t.Error(err)
	}
	// A long poll must not hold up the end.
	resp, err := http.Get(s.Endpoints()[0] + "/v2/keys/none?wait=true")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	began := time.Now()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("close took %v", took)
	}
	o.Listen = strings.TrimPrefix(s.Endpoints()[0], "http://")
	again := start(t, o)
	if r, err := again.Get(ctx, "/k"); err != nil || r.Value != "v" {
		t.Errorf("after restart: %+v, %v", r, err)
	}
	if log, err := os.ReadFile(o.Log); err != nil || len(log) == 0 {
		t.Errorf("log file: %d bytes, %v", len(log), err)
	}
}

func TestStartErrors(t *testing.T) {
	ctx := context.Background()
	other := start(t, Options{Dir: t.TempDir(), NoSync: true})
	ended, cancel := context.WithCancel(ctx)
	cancel()
	tests := map[string]struct {
		ctx  context.Context
		o    Options
		want string
	}{
		"no directory":    {ctx, Options{}, "no data directory"},
		"address in use":  {ctx, Options{Dir: t.TempDir(), Listen: strings.TrimPrefix(other.Endpoints()[0], "http://")}, "address already in use"},
		"bad address":     {ctx, Options{Dir: t.TempDir(), Listen: "nonsense"}, "nonsense"},
		"no certificate":  {ctx, Options{Dir: t.TempDir(), TLS: &TLS{CertFile: "/none.pem", KeyFile: "/none-key.pem"}}, "/none.pem"},
		"no log file":     {ctx, Options{Dir: t.TempDir(), Log: "/none/etcd.log"}, "/none/etcd.log"},
		"directory taken": {ctx, Options{Dir: "/dev/null"}, "/dev/null"},
		"context ended":   {ended, Options{Dir: t.TempDir()}, "not ready"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s, err := Start(tt.ctx, tt.o)
			if err == nil {
				s.Close()
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestInNamespace(t *testing.T) {
	nstest.Enter(t)
	// The same address in two namespaces: both are free.
	s := start(t, Options{Dir: t.TempDir(), Listen: "127.99.98.97:2379", NoSync: true})
	if err := s.Set(context.Background(), "/k", "v", 0); err != nil {
		t.Error(err)
	}
	if resp, err := http.Get("http://127.99.98.97:2379/version"); err == nil {
		resp.Body.Close()
		t.Error("reachable from outside the namespace")
	}
}

func TestClusterStopAndRestart(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	dir := t.TempDir()
	ca, err := NewCA(dir, "ca")
	if err != nil {
		t.Fatal(err)
	}
	c, err := StartCluster(ctx, ClusterOptions{Dir: dir, CA: ca})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := c.Member(0).Set(ctx, "/k", "one", 0); err != nil {
		t.Fatal(err)
	}
	if err := c.Stop(0); err != nil {
		t.Error(err)
	}
	if err := setSoon(ctx, c.Member(1), "/k", "two"); err != nil {
		t.Fatal(err)
	}
	if err := c.Restart(ctx, 0); err != nil {
		t.Fatal(err)
	}
	if r, err := c.Member(0).Get(ctx, "/k"); err != nil || r.Value != "two" {
		t.Errorf("on the restarted member: %+v, %v", r, err)
	}
	if len(c.Endpoints()) != 3 || !strings.HasPrefix(c.Endpoints()[0], "https://127.") {
		t.Errorf("endpoints %v", c.Endpoints())
	}
}

// setSoon writes as soon as the cluster has a leader again.
func setSoon(ctx context.Context, s *Server, key, value string) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := s.Set(attempt, key, value, 0)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
}

func start(t *testing.T, o Options) *Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}
