package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// optPrefix starts the name of every variable that holds one docker option.
const optPrefix = "DOCKER_OPT_"

// variables joins the environment with an env file, which wins, as in a shell
// that sources the file.
func variables(environ []string, file map[string]string) map[string]string {
	vars := make(map[string]string)
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		vars[name] = value
	}
	maps.Copy(vars, file)
	return vars
}

// dockerEnv returns docker's env file:
//
//	DOCKER_OPT_BIP="--bip=10.1.74.1/24"
//	DOCKER_OPT_IPMASQ="--ip-masq=true"
//	DOCKER_OPT_MTU="--mtu=1472"
//	DOCKER_OPTS=" --bip=10.1.74.1/24 --ip-masq=true --mtu=1472"
//
// Docker masquerades exactly if flanneld does not.
func dockerEnv(o options, vars map[string]string) ([]byte, error) {
	opts := make(map[string]string)
	for name, value := range vars {
		if strings.HasPrefix(name, optPrefix) && shellName.MatchString(name) {
			opts[name] = value
		}
	}
	if v := vars["FLANNEL_SUBNET"]; v != "" {
		opts[optPrefix+"BIP"] = "--bip=" + v
	}
	if v := vars["FLANNEL_MTU"]; v != "" {
		opts[optPrefix+"MTU"] = "--mtu=" + v
	}
	if v := vars["FLANNEL_IPMASQ"]; v != "" && !o.omitIPMasq {
		switch v {
		case "true":
			opts[optPrefix+"IPMASQ"] = "--ip-masq=false"
		case "false":
			opts[optPrefix+"IPMASQ"] = "--ip-masq=true"
		default:
			return nil, fmt.Errorf("invalid value of FLANNEL_IPMASQ: %q: want true or false", v)
		}
	}

	var out []byte
	combined := vars[o.key]
	if combined != "" {
		combined += " "
	}
	for _, name := range slices.Sorted(maps.Keys(opts)) {
		if o.individual {
			out = appendAssignment(out, name, opts[name])
		}
		combined += " " + opts[name]
	}
	if o.combined {
		out = appendAssignment(out, o.key, combined)
	}
	return out, nil
}

// inQuotes escapes what is special between double quotes, alike for sh (POSIX
// Shell Command Language 2.2.3) and for systemd.exec(5) EnvironmentFile=.
var inQuotes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`, "`", "\\`")

func appendAssignment(b []byte, name, value string) []byte {
	return fmt.Appendf(b, "%s=\"%s\"\n", name, inQuotes.Replace(value))
}
