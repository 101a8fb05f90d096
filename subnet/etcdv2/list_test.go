package etcdv2

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"tweed/test/nstest"
)

// answer is one of n leases, as etcd writes it.
func answer(dir string, n int) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `{"action":"get","node":{"key":"%s","dir":true,"nodes":[`, dir)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		sn := fmt.Sprintf("10.%d.%d.%d", i>>12&255, i>>4&255, i<<4&255)
		value := fmt.Sprintf(`{"PublicIP":"192.%d.%d.%d","BackendType":"vxlan","BackendData":{"VtepMAC":"0e:00:00:%02x:%02x:%02x"}}`,
			1+i>>16, i>>8&255, i&255, i>>16&255, i>>8&255, i&255)
		quoted, _ := json.Marshal(value)
		fmt.Fprintf(&b, `{"key":"%s/%s-28","value":%s,"expiration":"2026-11-24T14:22:45.1%08dZ","ttl":%d,"modifiedIndex":%d,"createdIndex":%d}`,
			dir, sn, quoted, i, 80000+i%6400, 10+i, 10+i)
	}
	b.WriteString(`],"modifiedIndex":4,"createdIndex":4}}` + "\n")
	return b.Bytes()
}

// slowList is readList by encoding/json alone.
func slowList(s *Store, text []byte, asked time.Time) (l listing, err error) {
	var top, dir map[string]json.RawMessage
	if err := json.Unmarshal(text, &top); err != nil {
		return l, err
	}
	if err := json.Unmarshal(top["node"], &dir); top["node"] == nil || err != nil || dir == nil {
		return l, fmt.Errorf("no node: %v", err)
	}
	l.found = true
	for name, to := range map[string]any{"key": &l.dir.Key, "dir": &l.dir.Dir} {
		if dir[name] == nil {
			continue
		}
		if err := json.Unmarshal(dir[name], to); err != nil {
			return l, err
		}
	}
	var nodes []json.RawMessage
	if dir["nodes"] != nil {
		if err := json.Unmarshal(dir["nodes"], &nodes); err != nil {
			return l, err
		}
	}
	for _, raw := range nodes {
		n, err := slowNode(raw)
		if err != nil {
			return l, err
		}
		if lease, bad := s.decode(n, asked); bad != nil {
			l.bad = append(l.bad, *bad)
		} else {
			l.leases = append(l.leases, lease)
		}
	}
	return l, nil
}

// texts are answers in all shapes.
func texts() map[string]string {
	node := func(s string) string {
		return `{"node":{"key":"/p/subnets","dir":true,"nodes":[` + s + `]}}`
	}
	record := func(key, value string) string {
		quoted, _ := json.Marshal(value)
		return fmt.Sprintf(`{"key":"/p/subnets/%s","value":%s,"modifiedIndex":7,"createdIndex":7}`, key, quoted)
	}
	all := map[string]string{
		"as etcd writes it": string(answer("/p/subnets", 300)),
		"none":              node(""),
		"blanks":            " {\n\"node\" : { \"dir\" : true ,\t\"nodes\" : [ ] } } \r\n",
		"unknown members":   `{"x":[{"nodes":[1,"]}"]}],"node":{"y":"\\\"","nodes":[{"z":{"key":1},"key":"/p/subnets/10.5.3.0-24"}],"dir":true},"w":-1.5e3}`,
		"nodes first":       `{"node":{"nodes":[],"key":"/p/subnets","dir":true},"action":"get"}`,
		"twice":             `{"node":{"nodes":[{"key":"a"}]},"node":{"key":"b","key":"c","dir":true,"dir":false,"nodes":[{"key":"d"}],"nodes":[]}}`,
		"twice, then less":  `{"node":{"key":"a","nodes":[{"key":"b"}]},"node":{"dir":true}}`,
		"nested":            node(`{"key":"/p/subnets/10.5.3.0-24","dir":true,"nodes":[{"key":"/p/subnets/10.5.3.0-24/x","value":"y"}],"modifiedIndex":3}`),
		"null":              `{"node":null}`,
		"null nodes":        `{"node":{"nodes":null,"dir":null,"key":null}}`,
		"null record":       node(`null`),
		"null members":      node(`{"key":null,"value":null,"expiration":null,"ttl":null,"modifiedIndex":null}`),
		"no node":           `{"action":"get"}`,
		"empty":             "",
		"blank":             " \n",
		"a word":            "null",
		"html":              "<html>",
		"an array":          "[]",
		"cut off":           `{"node":{"nodes":[{"key":"/p`,
		"brackets":          node(`{"key":[}]`),
		"brackets 2":        `{"x":[},"node":{}}`,
		"no comma":          node(record("10.5.3.0-24", "{}") + record("10.5.4.0-24", "{}")),
		"comma at the end":  node(record("10.5.3.0-24", "{}") + ","),
		"two texts":         node("") + node(""),
		"no quotes":         `{node:{}}`,
		"empty value":       `{"node":}`,
		"number as key":     node(`{"key":5}`),
		"fractions":         node(`{"key":"/p/subnets/10.5.3.0-24","ttl":1.5}`),
		"leading zero":      node(`{"key":"/p/subnets/10.5.3.0-24","ttl":012}`),
		"minus":             node(`{"key":"/p/subnets/10.5.3.0-24","value":"{\"PublicIP\":\"192.0.2.1\"}","expiration":"x","ttl":-3}`),
		"huge":              node(`{"key":"/p/subnets/10.5.3.0-24","modifiedIndex":18446744073709551615}`),
		"too huge":          node(`{"key":"/p/subnets/10.5.3.0-24","modifiedIndex":184467440737095516150}`),
		"due":               node(`{"key":"/p/subnets/10.5.3.0-24","value":"{\"PublicIP\":\"192.0.2.1\"}","expiration":"2026-11-24T14:22:45Z","modifiedIndex":5}`),
		"other case":        node(`{"Key":"/p/subnets/10.5.3.0-24","key":"/p/subnets/10.5.4.0-24","KEY":1}`),
		"control":           node("{\"key\":\"/p/subnets/\x01\"}"),
		"not UTF-8":         node("{\"key\":\"/p/subnets/\xff\"}"),
		"elsewhere":         node(`{"key":"/q/subnets/10.5.3.0-24","value":"{\"PublicIP\":\"192.0.2.1\"}"}`),
	}
	for i, key := range []string{"10.5.3.0-24", "10.5.3.1-24", "010.5.3.0-24", "10.5.3.0-024", "10.5.3.0-0", "10.5.3.0-1", "0.0.0.0-1", "10.5.3.0-31", "10.5.3.0-32",
		"10.5.3.0-24&fd00::-64", `10.5.3.0-24\u0026fd00::-64`, `10.5.3.0\u002d24`, "10.5.3-24", "10.5.3.256-24", "10.5.3.0.0-24", "x", "", "10.5.3.0-24/x", "10.5.3.0-", "99999999999999999999.5.3.0-24"} {
		all[fmt.Sprintf("key %d", i)] = node(record(key, `{"PublicIP":"192.0.2.1"}`))
	}
	for i, value := range []string{`{"PublicIP":"192.0.2.1","BackendType":"vxlan","BackendData":{"VtepMAC":"0e:01:02:03:04:05"}}`,
		`{"PublicIP":"192.0.2.1","BackendType":""}`, `{"PublicIP":"192.0.2.1","BackendData":{}}`, `{"PublicIP":"192.0.2.1","BackendData":{"VNI":1,"Port":8472}}`,
		`{"PublicIP":"192.0.2.1","BackendData":{"VNI":01}}`, `{"PublicIP":"192.0.2.1","BackendData":{"VNI":}}`, `{"PublicIP":"192.0.2.1","BackendData":{"VNI":1,}}`,
		`{"PublicIP":"192.0.2.1","BackendData":null}`, `{"PublicIP":"192.0.2.1","BackendData":{"a":{"b":[]}}}`, `{"PublicIP":"192.0.2.1","BackendData":{"a":"\u0041"}}`,
		`{"PublicIP":"192.0.2.1","BackendData":{"a"}}`, `{"PublicIP":"192.0.2.1","BackendData":{"VtepMAC":"x"}`, `{"PublicIP":"192.0.2.1"}}`, `{"PublicIP":"192.0.2.1"} `,
		`{"PublicIP":"192.0.2.1","PublicIP":"192.0.2.2"}`, `{"PublicIP":"192.0.2.1","BackendType":"a","BackendType":"b"}`, `{"BackendType":"vxlan","PublicIP":"192.0.2.1"}`,
		`{"publicip":"192.0.2.1"}`, `{"PublicIP":"192.0.2.1","PublicIPv6":null}`, `{"PublicIP":"fd00::1"}`, `{"PublicIP":"192.0.2.1 "}`, `{"PublicIP":"192.0.2.01"}`,
		`{"PublicIP":"0.0.0.0"}`, `{"PublicIP":"0.1.2.3"}`, `{"PublicIP":"127.0.0.1"}`, `{"PublicIP":"169.254.1.1"}`, `{"PublicIP":"224.0.0.1"}`, `{"PublicIP":"240.0.0.1"}`, `{"PublicIP":"255.255.255.255"}`,
		`{"PublicIP":5}`, `{}`, `null`, `[]`, `x`, ``, `{"PublicIP":"192.0.2.1","BackendType":"<&>"}`, `{"PublicIP":"192.0.2.1","BackendType":"é"}`, `{"PublicIP":"192.0.2.1","BackendType":"a\/b"}`} {
		all[fmt.Sprintf("value %d", i)] = node(record("10.5.3.0-24", value) + "," + record("10.5.4.0-24", value))
	}
	return all
}

func checkList(t *testing.T, s *Store, text []byte) {
	t.Helper()
	asked := time.Now()
	want, wantErr := slowList(s, text, asked)
	for name, r := range map[string]io.Reader{"whole": bytes.NewReader(text), "byte by byte": iotest.OneByteReader(bytes.NewReader(text))} {
		if name != "whole" && len(text) > 1<<16 {
			continue
		}
		got, err := s.readList(r, asked, 10)
		switch {
		case err != nil && wantErr != nil:
			if !errors.Is(err, errNotEtcd) {
				t.Errorf("%s: error %v, want one of %v", name, err, errNotEtcd)
			}
			continue
		case err != nil || wantErr != nil:
			t.Errorf("%s: error %v, want %v", name, err, wantErr)
			continue
		}
		for i := range got.bad {
			if i < len(want.bad) && got.bad[i].Err.Error() == want.bad[i].Err.Error() {
				got.bad[i].Err = want.bad[i].Err
			}
		}
		if len(got.leases) == 0 {
			got.leases = nil
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: read\n%+v, want\n%+v", name, got, want)
		}
	}
}

func TestReadList(t *testing.T) {
	s := recordStore(t)
	for name, text := range texts() {
		t.Run(name, func(t *testing.T) { checkList(t, s, []byte(text)) })
	}
	// The quick way is taken at all. What is counted is everybody's, and servers of
	// the tests before may still be ending.
	base := fewestAllocs(func() { answer("/p/subnets", 1000) })
	if err := nstest.Await(t.Context(), 30*time.Second, func() error {
		n := testing.AllocsPerRun(1, func() {
			if l, err := s.readList(bytes.NewReader(answer("/p/subnets", 1000)), time.Now(), 1000); err != nil || len(l.leases) != 1000 {
				t.Errorf("%d leases, %v", len(l.leases), err)
			}
		})
		if perRecord := (n - base) / 1000; perRecord > 1.1 {
			return fmt.Errorf("%.2f allocations for each record, want one for its BackendData", perRecord)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func fewestAllocs(f func()) float64 {
	fewest := testing.AllocsPerRun(1, f)
	for range 9 {
		fewest = min(fewest, testing.AllocsPerRun(1, f))
	}
	return fewest
}

// TestReadListFails: a source that fails is not blamed on its text.
func TestReadListFails(t *testing.T) {
	s := recordStore(t)
	lost := errors.New("connection lost")
	text := answer("/p/subnets", 3)
	for _, n := range []int{0, 1, 40, len(text) / 2, len(text) - 1, len(text)} {
		r := io.MultiReader(bytes.NewReader(text[:n]), iotest.ErrReader(lost))
		if _, err := s.readList(r, time.Now(), 0); !errors.Is(err, lost) || errors.Is(err, errNotEtcd) {
			t.Errorf("failure after %d bytes: %v", n, err)
		}
	}
}

// FuzzReadList: read as it arrives is read by encoding/json.
func FuzzReadList(f *testing.F) {
	s := recordStore(f)
	for _, text := range texts() {
		if len(text) < 1000 {
			f.Add([]byte(text))
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) { checkList(t, s, text) })
}

// FuzzPlain: what is taken for plain reads the same the slow way.
func FuzzPlain(f *testing.F) {
	s := recordStore(f)
	f.Add("10.5.3.0-24", `{"PublicIP":"192.0.2.1","BackendType":"vxlan","BackendData":{"VtepMAC":"0e:01:02:03:04:05","VNI":1}}`, int64(5), uint64(7))
	f.Add("10.5.3.0-24", `{"PublicIP":"192.0.2.1"}`, int64(0), uint64(0))
	f.Fuzz(func(t *testing.T, key, value string, ttl int64, modified uint64) {
		record := map[string]any{"key": "/p/subnets/" + key, "value": value, "ttl": ttl, "modifiedIndex": modified}
		if ttl != 0 {
			record["expiration"] = "2026-11-24T14:22:45Z"
		}
		text, err := json.Marshal(map[string]any{"node": map[string]any{"dir": true, "nodes": []any{record}}})
		if err != nil {
			t.Skip()
		}
		checkList(t, s, text)
	})
}

// TestLongList: a long answer that keeps coming is waited for, a trickle, or
// one that stops, is not.
func TestLongList(t *testing.T) {
	const timeout = time.Second
	head := `{"node":{"key":"/coreos.com/network/subnets","dir":true,"x":"`
	chunk := strings.Repeat("x", progressStep/2)
	for _, tt := range []struct {
		name  string
		send  func(w io.Writer, done <-chan struct{})
		fault string
	}{
		{"steady", func(w io.Writer, _ <-chan struct{}) {
			io.WriteString(w, head)
			for range 6 { // 1.8 s in all
				time.Sleep(300 * time.Millisecond)
				io.WriteString(w, chunk)
				w.(http.Flusher).Flush()
			}
			io.WriteString(w, `"}}`)
		}, ""},
		{"trickle", func(w io.Writer, done <-chan struct{}) {
			io.WriteString(w, head)
			for {
				select {
				case <-done:
					return
				case <-time.After(50 * time.Millisecond):
					io.WriteString(w, "x")
					w.(http.Flusher).Flush()
				}
			}
		}, "no answer within 1s"},
		{"stops", func(w io.Writer, done <-chan struct{}) {
			io.WriteString(w, head+chunk+chunk+chunk)
			w.(http.Flusher).Flush()
			<-done
		}, "no answer within 1s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				w.Header().Set("X-Etcd-Index", "7")
				tt.send(w, r.Context().Done())
			}))
			defer server.Close()
			s := open(t, Options{Endpoints: []string{server.URL}, RequestTimeout: timeout})
			began := time.Now()
			_, err := s.List(t.Context())
			if tt.fault == "" && err != nil || tt.fault != "" && (err == nil || !strings.Contains(err.Error(), tt.fault)) {
				t.Errorf("after %v: %v, want %q", time.Since(began), err, tt.fault)
			}
		})
	}
}

// TestEndlessList: no answer can fill the memory.
func TestEndlessList(t *testing.T) {
	s := recordStore(t)
	for begin, want := range map[string]struct {
		fault string
		steps int
	}{
		`{"node":{"nodes":[ `: {"more than 64 MiB", 64},
		`{"node":{"nodes":["`: {"a value of more than 16 MiB", 16},
		`{"node":{"key":"`:    {"a value of more than 16 MiB", 16},
	} {
		steps := 0
		endless := &meter{src: blanks{}, progress: func() { steps++ }}
		_, err := s.readList(io.MultiReader(strings.NewReader(begin), endless), time.Now(), 0)
		if err == nil || !strings.Contains(err.Error(), want.fault) || !errors.Is(err, errNotEtcd) || steps > want.steps {
			t.Errorf("after %d MiB: %v, want %q after %d", steps, err, want.fault, want.steps)
		}
	}
}

// blanks never ends.
type blanks struct{}

func (blanks) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// BenchmarkReadList is of 10 000 leases in memory.
func BenchmarkReadList(b *testing.B) {
	s := recordStore(b)
	text := answer("/p/subnets", 10000)
	for name, read := range map[string]func() (listing, error){
		"stream": func() (listing, error) { return s.readList(bytes.NewReader(text), time.Now(), 10000) },
		"slow":   func() (listing, error) { return slowList(s, text, time.Now()) },
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				if l, err := read(); err != nil || len(l.leases) != 10000 {
					b.Fatal(len(l.leases), err)
				}
			}
		})
	}
}
