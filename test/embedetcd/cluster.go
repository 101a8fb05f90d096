package embedetcd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"time"
)

// ClusterOptions say how to run a cluster of several etcd members.
type ClusterOptions struct {
	Dir  string // data directories of the members go here; required
	Size int    // members; 0 means 3
	CA   *CA    // if set, https with client certificates, for clients and peers
	Log  string // file to append etcd's log to; empty means nowhere
}

// Cluster is a cluster on the loopback interface. Nothing it stores survives a
// crash of the machine.
type Cluster struct {
	servers []*Server // nil where stopped
	options []Options
	members []member
}

// StartCluster runs a cluster and waits until all members answer, or until ctx
// ends.
func StartCluster(ctx context.Context, o ClusterOptions) (*Cluster, error) {
	if o.Size == 0 {
		o.Size = 3
	}
	c := &Cluster{
		servers: make([]*Server, o.Size),
		options: make([]Options, o.Size),
		members: make([]member, o.Size),
	}
	// A loopback address of its own keeps a stopped member's ports free until
	// it starts again: connections elsewhere take their ports from 127.0.0.1.
	host := fmt.Sprintf("127.%d.%d.%d", 64+rand.IntN(128), rand.IntN(256), 1+rand.IntN(254))
	if err := c.plan(o, host); err != nil {
		return nil, fmt.Errorf("start etcd cluster on %s: %w", host, err)
	}
	for i := range c.servers {
		if err := c.open(i); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	for _, s := range c.servers {
		if err := s.ready(ctx); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}

func (c *Cluster) plan(o ClusterOptions, host string) error {
	var files *TLS
	scheme := "http"
	if o.CA != nil {
		// etcd checks a peer's certificate against the address it comes from,
		// which on the loopback interface is 127.0.0.1.
		issued, err := o.CA.Issue("member", []string{host, "127.0.0.1"}, time.Time{})
		if err != nil {
			return err
		}
		files, scheme = &issued, "https"
	}
	ports, err := freePorts(host, 2*len(c.servers))
	if err != nil {
		return err
	}
	var initial []string
	for i := range c.members {
		name := fmt.Sprintf("m%d", i)
		peer := scheme + "://" + ports[2*i]
		initial = append(initial, name+"="+peer)
		c.members[i] = member{name: name, peerURL: peer, listen: true, peerTLS: files}
		c.options[i] = Options{Dir: filepath.Join(o.Dir, name), Listen: ports[2*i+1], TLS: files, NoSync: true, Log: o.Log}
	}
	for i := range c.members {
		c.members[i].cluster = strings.Join(initial, ",")
	}
	return nil
}

// freePorts returns n different addresses host:port that nobody listens on.
func freePorts(host string, n int) ([]string, error) {
	var addrs []string
	for range n {
		l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			return nil, err
		}
		defer l.Close() // only after all are found, so that no two are equal
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}

func (c *Cluster) open(i int) (err error) {
	c.servers[i], err = open(c.options[i], c.members[i])
	return err
}

// Endpoints returns the URLs for clients, stopped members included.
func (c *Cluster) Endpoints() []string {
	var urls []string
	for i, o := range c.options {
		scheme, _, _ := strings.Cut(c.members[i].peerURL, ":")
		urls = append(urls, scheme+"://"+o.Listen)
	}
	return urls
}

// Member returns member i, for its operator's verbs; nil if it is stopped.
func (c *Cluster) Member(i int) *Server { return c.servers[i] }

// Stop stops member i as Server.Close does. Stopping a stopped one is nothing.
func (c *Cluster) Stop(i int) error {
	s := c.servers[i]
	if s == nil {
		return nil
	}
	c.servers[i] = nil
	return s.Close()
}

// Restart starts member i again, at its old addresses and with its old data,
// and waits until it answers.
func (c *Cluster) Restart(ctx context.Context, i int) error {
	if c.servers[i] != nil {
		return fmt.Errorf("restart etcd member %d: it is running", i)
	}
	if err := c.open(i); err != nil {
		return err
	}
	return c.servers[i].ready(ctx)
}

// Close stops all members.
func (c *Cluster) Close() error {
	var errs []error
	for i := range c.servers {
		errs = append(errs, c.Stop(i))
	}
	return errors.Join(errs...)
}
