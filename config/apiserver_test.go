package config

import (
	"slices"
	"strings"
	"testing"
)

func TestAPIServers(t *testing.T) {
	n, err := load1(t, good+`apiserver: {listen: ":7443"}`)
	if err != nil {
		t.Fatal(err)
	}
	if a := n.APIServer; !slices.Equal(a.Servers, []string{"192.0.2.10:6443", "192.0.2.11:6443"}) || a.MaxConnections != DefaultAPIConnections {
		t.Errorf("%+v", a)
	}
	if n, err := load1(t, good); err != nil || n.APIServer.Listen != "" || n.APIServer.Servers != nil {
		t.Errorf("%+v, %v", n.APIServer, err)
	}
	for text, want := range map[string]string{
		`{listen: "7443"}`:                       `apiserver.listen: "7443" is not host:port`,
		`{servers: ["192.0.2.1:6443"]}`:          "apiserver.listen: is not set",
		`{listen: ":6443"}`:                      `apiserver.servers.0: "192.0.2.10:6443" may be the balancer itself`,
		`{listen: "192.0.2.10:6443"}`:            `apiserver.servers.0: "192.0.2.10:6443" may be the balancer itself`,
		`{listen: ":7443", servers: [":6443"]}`:  `apiserver.servers.0: ":6443" has no host`,
		`{listen: ":7443", servers: ["x"]}`:      `apiserver.servers.0: "x" is not host:port`,
		`{listen: ":7443", ca_file: ca.crt}`:     `apiserver.ca_file: "ca.crt" is not an absolute path`,
		`{listen: ":7443", cert_file: /x}`:       "cert_file and key_file belong together",
		`{listen: ":7443", max_connections: -1}`: "apiserver.max_connections: -1 is outside",
		`{listen: ":7443", server: []}`:          "not found in type",
	} {
		if _, err := load1(t, good+"apiserver: "+text+"\n"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s:\n%v\nwant %s", text, err, want)
		}
	}
}
