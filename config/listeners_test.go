package config

import (
	"strings"
	"testing"
)

// Ports that exclude one another would keep the node from starting, and everything else had said that all is well.
func TestPortsThatExcludeOneAnotherAreRefused(t *testing.T) {
	const tls = "client_tls: {cert_file: /c, key_file: /k}\n"
	for name, c := range map[string]struct{ more, want string }{
		"all addresses and a virtual one": {tls + "client_listen: \":2379\"\nvips: [{address: 10.0.0.50/24}]\nvip_etcd: {port: 2379}\n", "vip_etcd.port: 10.0.0.50:2379 and :2379, of client_listen"},
		"all of IPv4 and a virtual one":   {tls + "client_listen: \"0.0.0.0:2379\"\nvips: [{address: 10.0.0.50/24}]\nvip_etcd: {port: 2379}\n", "cannot both be listened at"},
		"all of IPv4 and one of IPv6":     {tls + "client_listen: \"0.0.0.0:2379\"\nvips: [{address: \"fd00::50/64\"}]\nvip_etcd: {port: 2379}\n", "cannot both be listened at"},
		"a member's":                      {"http_listen: \":7001\"\n", "members.a.raft: 127.0.0.1:7001 and :7001, of http_listen"},
		"two that are the same":           {"http_listen: 127.0.0.1:2379\n", "http_listen: 127.0.0.1:2379 and 127.0.0.1:2379, of client_listen"},
		"other ports":                     {"http_listen: \":8008\"\n", ""},
		"other addresses":                 {tls + "client_listen: [\"127.0.0.1:2379\", \"10.0.0.11:2379\"]\nvips: [{address: 10.0.0.50/24}]\nvip_etcd: {port: 2379}\n", ""},
	} {
		_, err := ParseNode("test", []byte("node: a\ndata_dir: /d\nmembers: {a: {raft: \"127.0.0.1:7001\", peer: \"127.0.0.1:7002\", postgres: \"127.0.0.1:7003\"}, "+
			"b: {raft: \"127.0.0.2:7001\", peer: \"127.0.0.2:7002\", postgres: \"127.0.0.2:7003\"}, w: {raft: \"127.0.0.3:7001\"}}\n"+c.more))
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
	}
}
