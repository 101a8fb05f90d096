package main

import (
	"encoding/json"
	"net/netip"
)

// summary is what -json prints.
type summary struct {
	OK       bool         `json:"ok"`
	Underlay netip.Prefix `json:"underlay"`
	Nodes    int          `json:"nodes"`
	Backends []result     `json:"backends"`
}

// result is what one backend has shown.
type result struct {
	Backend    string            `json:"backend"`
	Config     json.RawMessage   `json:"config"`
	Leases     []leaseResult     `json:"leases"`
	Hosts      []hostResult      `json:"hosts"`
	Pings      []pingResult      `json:"pings"`
	Throughput *throughputResult `json:"throughput"`
	Seconds    float64           `json:"seconds"`         // that building and showing took
	Error      string            `json:"error,omitempty"` // the text of Err
	Logs       string            `json:"logs,omitempty"`  // the directory, if it was kept
	Removed    bool              `json:"removed"`         // nothing is left, but for Logs

	Err error `json:"-"`
}

type leaseResult struct {
	Key   string          `json:"key"`
	Value json.RawMessage `json:"value"`
	TTL   float64         `json:"ttl"` // seconds

	owner netip.Addr // to sort as the hosts are
}

type hostResult struct {
	Name    string     `json:"name"`
	Address netip.Addr `json:"address"`
	Pod     netip.Addr `json:"pod"`
	Env     []string   `json:"env"`    // lines of subnet.env
	Routes  []string   `json:"routes"` // to the pods of the other hosts
}

type pingResult struct {
	From   string  `json:"from"`
	To     string  `json:"to"`
	Millis float64 `json:"ms,omitempty"`
	TTL    int     `json:"ttl,omitempty"`
	Error  string  `json:"error,omitempty"`
}

type throughputResult struct {
	From          string  `json:"from"`
	To            string  `json:"to"`
	BitsPerSecond float64 `json:"bits_per_second"`
	Seconds       float64 `json:"seconds"`
}

func (r result) ok() bool { return r.Err == nil }
