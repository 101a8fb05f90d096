package etcdv2

import (
	"fmt"

	"go.etcd.io/etcd/client/v2"
)

// refusal is an error that etcd answered a call with.
type refusal struct {
	call     call
	endpoint endpoint
	code     client.Error
	doubt    error // why an earlier try of the same write may have been carried out
}

// Unwrap returns the error that subnet.Store promises for this case, unless
// what etcd found may be the work of our own earlier try.
func (r *refusal) Unwrap() error {
	if r.doubt != nil {
		return nil
	}
	return r.call.means[r.code.Code]
}

func (r *refusal) Error() string {
	return fmt.Sprintf("%s %s at %s: %s", r.call.verb, r.call.key, r.endpoint.url, r.why())
}

func (r *refusal) why() string {
	promised := r.call.means[r.code.Code]
	switch {
	case r.doubt != nil && promised != nil:
		return fmt.Sprintf("%v, or an earlier try was carried out: %v", promised, r.doubt)
	case promised != nil:
		return promised.Error()
	case r.code.Code == client.ErrorCodeUnauthorized && r.endpoint.username == "":
		return "etcd wants a user for this (-etcd-username, -etcd-password)"
	case r.code.Code == client.ErrorCodeUnauthorized:
		return fmt.Sprintf("etcd does not let user %q do this: unknown, wrong password (-etcd-password), or without the right to this key", r.endpoint.username)
	case r.code.Code == client.ErrorCodeNotDir:
		return fmt.Sprintf("%s is a plain key: want a directory", r.code.Cause)
	case r.code.Code == client.ErrorCodeNotFile:
		return fmt.Sprintf("%s is a directory: want a plain key", r.code.Cause)
	}
	return fmt.Sprintf("etcd error %d: %s (%s)", r.code.Code, r.code.Message, r.code.Cause)
}
