package main

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
)

// FuzzHealth: whatever is asked, the answer is one of those that there are, and
// small.
func FuzzHealth(f *testing.F) {
	f.Add("GET", "/readyz", "format=json", "text/html")
	f.Add("BREW", "/healthz", "%zz&;=", "application/json")
	f.Add("", "//../readyz", "", "")
	r := newReadiness("lease")
	handler := healthHandler(r, http.NotFoundHandler())
	f.Fuzz(func(t *testing.T, method, path, query, accept string) {
		req := httptest.NewRequest("GET", "/", nil)
		req.Method, req.URL = method, &url.URL{Path: path, RawQuery: query}
		req.Header.Set("Accept", accept)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, req)
		switch w.Code {
		case 200, 301, 307, 400, 404, 405, 503:
		default:
			t.Errorf("status %d", w.Code)
		}
		// A redirect to the clean path tells that path.
		if w.Body.Len() > 400+6*len(path)+6*len(query) {
			t.Errorf("%d bytes: %q", w.Body.Len(), w.Body)
		}
	})
}
