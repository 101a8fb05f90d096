package subnet

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"

	"github.com/joho/godotenv"
)

// Env is the content of subnet.env, the file by which docker and scripts learn
// this node's subnet.
type Env struct {
	Network netip.Prefix // the whole overlay network
	Subnet  netip.Prefix // this node's lease, masked
	MTU     int          // of the pods, in bytes
	IPMasq  bool         // whether the daemon masquerades, so that docker need not
}

// Bytes returns the file in flannel v0.10's exact form. The subnet is written
// as the address of its first host, which docker0 takes:
//
//	FLANNEL_NETWORK=10.5.0.0/16
//	FLANNEL_SUBNET=10.5.34.1/24
//	FLANNEL_MTU=1450
//	FLANNEL_IPMASQ=false
func (e Env) Bytes() []byte {
	host := netip.PrefixFrom(e.Subnet.Addr().Next(), e.Subnet.Bits())
	return fmt.Appendf(nil, "FLANNEL_NETWORK=%s\nFLANNEL_SUBNET=%s\nFLANNEL_MTU=%d\nFLANNEL_IPMASQ=%t\n",
		e.Network, host, e.MTU, e.IPMasq)
}

// WriteFile replaces path by the env file: atomically, on disk when it
// returns, mode 0644 whatever the umask. Missing folders are made, mode 0755.
func (e Env) WriteFile(path string) error { return replaceFile(path, e.Bytes(), 0o644) }

// maxEnvFile bounds what is read of an env file; real ones have 100 bytes.
const maxEnvFile = 64 << 10

// ReadEnvFile reads variables from a file in dotenv syntax: comments, export,
// quotes and ":" separators are understood. Nothing in it is executed.
func ReadEnvFile(path string) (map[string]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxEnvFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxEnvFile {
		return nil, fmt.Errorf("read %s: larger than %d bytes: want lines of the form NAME=value", path, maxEnvFile)
	}
	env, err := godotenv.Parse(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return env, nil
}

// ReadEnvSubnet returns the subnet that a former run wrote to the env file.
// A file that is missing, or that has no FLANNEL_SUBNET because mk-docker-opts
// overwrote it, gives the zero Prefix and no error.
func ReadEnvSubnet(path string) (netip.Prefix, error) {
	env, err := ReadEnvFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return netip.Prefix{}, nil
	}
	if err != nil {
		return netip.Prefix{}, err
	}
	text := env["FLANNEL_SUBNET"]
	if text == "" {
		return netip.Prefix{}, nil
	}
	sn, err := netip.ParsePrefix(text)
	if err != nil || !sn.Addr().Is4() {
		return netip.Prefix{}, fmt.Errorf("read %s: FLANNEL_SUBNET %q: want an IPv4 subnet such as 10.5.34.1/24", path, text)
	}
	return sn.Masked(), nil
}
