package etcdv2

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync/atomic"

	"go.etcd.io/etcd/client/v2"
)

var (
	errV2Off      = errors.New("the v2 API of this etcd is switched off: start it with --enable-v2 (etcd 3.5 and earlier have it)")
	errPlainHTTP  = errors.New("the server wants TLS: write https:// in -etcd-endpoints")
	errNotEtcd    = errors.New("the answer is not one of etcd")
	errNewCluster = errors.New("the endpoint belongs to another cluster than the last list")
)

// exchange is the transport of one request. It turns whatever is no answer of
// the v2 API into an error that says what it is instead, because the client
// library only tells that it cannot parse it. It is client.CancelableTransport.
type exchange struct {
	base     http.RoundTripper
	cluster  string            // if set, the cluster that has to answer
	answered func()            // is told that etcd has answered
	indexed  func(index int64) // if set, is told X-Etcd-Index, before the body has come

	// digest, if set, reads a result as it arrives, and returns what the library
	// is to see of it.
	digest func(body io.Reader) ([]byte, error)
	// progress is called whenever another progressStep has arrived.
	progress func()

	sent  atomic.Bool // a connection was there, so the server may have acted
	index int64       // X-Etcd-Index of the answer; 0 before its header is there
}

// CancelRequest is not called: the library cancels by http.Request.Cancel.
func (x *exchange) CancelRequest(*http.Request) {}

// RoundTrip implements http.RoundTripper.
func (x *exchange) RoundTrip(req *http.Request) (*http.Response, error) {
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { x.sent.Store(true) }}
	resp, err := x.base.RoundTrip(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
	if err != nil {
		return nil, err
	}
	if err := x.check(resp); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

func (x *exchange) check(resp *http.Response) error {
	isJSON := strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json")
	id := resp.Header.Get("X-Etcd-Cluster-Id")
	switch code := resp.StatusCode; {
	case code/100 == 3:
		return nil // the library follows
	case code >= 500 || !isJSON:
		return describe(resp)
	case x.cluster != "" && id != "" && id != x.cluster:
		return errNewCluster
	case code >= 400:
		return x.checkError(resp)
	}
	index, err := strconv.ParseInt(resp.Header.Get("X-Etcd-Index"), 10, 64)
	if err != nil || index <= 0 {
		return fmt.Errorf("%w: %s with X-Etcd-Index %q", errNotEtcd, resp.Status, resp.Header.Get("X-Etcd-Index"))
	}
	x.index = index
	if x.indexed != nil {
		x.indexed(index)
	}
	x.answered()
	digest := x.digest
	if digest == nil {
		digest = wholeNode
	}
	resp.Body = &digestBody{ReadCloser: resp.Body, digest: func(body io.Reader) ([]byte, error) {
		return digest(&meter{src: body, progress: x.progress})
	}}
	return nil
}

// maxError is more than etcd's errors have: a key, and a few words.
const maxError = 64 << 10

// checkError makes sure that an error is one of etcd. Other servers that have
// not found something say so in JSON, too, but that is no missing key.
func (x *exchange) checkError(resp *http.Response) error {
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxError))
	if err != nil {
		return err
	}
	body := resp.Body
	resp.Body = struct {
		io.Reader
		io.Closer
	}{bytes.NewReader(b), body}
	var e client.Error
	if json.Unmarshal(b, &e) != nil || e.Code <= 0 || e.Code == client.ErrorCodeKeyNotFound && e.Index == 0 {
		return describe(resp)
	}
	x.answered()
	return nil
}

// describe makes an error of an answer that is no result.
func describe(resp *http.Response) error {
	b, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		b = nil // the status tells enough
	}
	text := strings.Join(strings.Fields(string(b)), " ")
	var etcd struct{ Message, Cause string }
	switch {
	case resp.StatusCode == http.StatusNotFound && text == "404 page not found":
		return errV2Off
	case resp.StatusCode == http.StatusBadRequest && strings.Contains(text, "HTTP request to an HTTPS server"):
		return errPlainHTTP
	case resp.StatusCode >= 500 && json.Unmarshal(b, &etcd) == nil && etcd.Message != "":
		return fmt.Errorf("%s: %s (%s)", resp.Status, etcd.Message, etcd.Cause)
	}
	if len(text) > 80 {
		text = text[:80] + "..."
	}
	return fmt.Errorf("%w: %s: %q", errNotEtcd, resp.Status, text)
}

// digestBody is the body of a result, of which digest decides what the library
// sees.
type digestBody struct {
	io.ReadCloser
	digest func(io.Reader) ([]byte, error)
	rest   *bytes.Reader
}

func (b *digestBody) Read(p []byte) (int, error) {
	if b.rest == nil {
		text, err := b.digest(b.ReadCloser)
		if err != nil {
			return 0, err
		}
		b.rest = bytes.NewReader(text)
	}
	return b.rest.Read(p)
}

// wholeNode reads a result whole and checks that there is a node in it: the
// library's watcher takes that for granted, and asks again without end when
// there is nothing at all.
func wholeNode(body io.Reader) ([]byte, error) {
	all, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	var result struct{ Node *struct{ Key string } }
	if err := json.Unmarshal(all, &result); err != nil && len(all) > 0 {
		return nil, fmt.Errorf("%w: %w", errNotEtcd, err)
	}
	if result.Node == nil {
		return nil, fmt.Errorf("%w: no node in %d bytes", errNotEtcd, len(all))
	}
	return all, nil
}

const (
	// maxBody is the most that an answer may have: 65 536 records are 17 MB.
	maxBody = 64 << 20
	// progressStep is how much has to arrive within RequestTimeout. A body that
	// comes in steadily is not cut off, a trickle is.
	progressStep = 1 << 20
)

// meter counts what is read of an answer.
type meter struct {
	src      io.Reader
	progress func()
	n        int64
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.src.Read(p)
	before := m.n
	m.n += int64(n)
	switch {
	case m.n > maxBody:
		return 0, fmt.Errorf("%w: more than %d MiB", errNotEtcd, maxBody>>20)
	case before/progressStep != m.n/progressStep:
		m.progress()
	}
	return n, err
}
