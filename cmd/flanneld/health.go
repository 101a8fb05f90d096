package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// A healthServer answers /healthz, /readyz and /metrics by HTTP.
type healthServer struct {
	listener net.Listener
	server   *http.Server
}

// listenHealth opens the port at once, so that a port that is taken is known
// before anything else is done. Port 0 switches the server off: nil, nil.
func listenHealth(ip string, port int, h http.Handler) (*healthServer, error) {
	if port == 0 {
		return nil, nil
	}
	addr := net.JoinHostPort(ip, strconv.Itoa(port))
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("health check on %s: %w: choose another with -healthz-ip and -healthz-port", addr, err)
	}
	return &healthServer{l, &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      5 * time.Second,
		IdleTimeout:       30 * time.Second,
		MaxHeaderBytes:    8 << 10,
		// What a client does wrong is none of the operator's business.
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}}, nil
}

// run serves until ctx ends, then lets requests finish for up to a second.
func (h *healthServer) run(ctx context.Context) error {
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if h.server.Shutdown(grace) != nil {
			h.server.Close()
		}
	})
	err := h.server.Serve(h.listener)
	if !stop() {
		<-ended
		return nil
	}
	return fmt.Errorf("health check on %s: %w", h.listener.Addr(), errors.Join(err, h.server.Close()))
}

// healthHandler answers, to any method:
//
//	/healthz  200 "flanneld is running"
//	/readyz   200 "flanneld is ready", or 503 "flanneld is not ready yet" and
//	          one line "condition: reason" for each thing still missing;
//	          JSON with ?format=json or Accept: application/json
//	/metrics  what metrics has to say
func healthHandler(r *readiness, metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/metrics", metrics)
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "flanneld is running")
	})
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, req *http.Request) {
		ready, conditions := r.state()
		asJSON := req.URL.Query().Get("format") == "json" || strings.Contains(req.Header.Get("Accept"), "application/json")
		if asJSON {
			w.Header().Set("Content-Type", "application/json")
		} else {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		}
		w.Header().Set("Cache-Control", "no-store")
		if !ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		switch {
		case asJSON:
			json.NewEncoder(w).Encode(struct {
				Ready      bool             `json:"ready"`
				Conditions []condition      `json:"conditions"`
				Counts     map[string]int64 `json:"counts"`
			}{ready, conditions, r.numbers()})
		case ready:
			io.WriteString(w, "flanneld is ready")
		default:
			io.WriteString(w, "flanneld is not ready yet\n")
			for _, c := range conditions {
				if !c.OK {
					fmt.Fprintf(w, "%s: %s\n", c.Name, printable(c.Reason))
				}
			}
		}
	})
	return mux
}
