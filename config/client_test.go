package config

import (
	"fmt"
	"strings"
	"testing"
)

const withTLS = "client_tls: {cert_file: /c, key_file: /k}\n"

func TestClientAddresses(t *testing.T) {
	for text, want := range map[string]string{
		"":                                "[http://127.0.0.1:2379]",
		"client_listen: 127.0.0.1:2379\n": "[http://127.0.0.1:2379]",
		withTLS + "client_listen: 127.0.0.1:2379\n":                                           "[https://127.0.0.1:2379]",
		withTLS + "client_listen: :2379\n":                                                    "[https://:2379]",
		withTLS + "client_listen: http://127.0.0.1:2379, https://192.0.2.10:2379\n":           "[http://127.0.0.1:2379 https://192.0.2.10:2379]",
		withTLS + "client_listen: ['http://[::1]:2379', '192.0.2.10:2379']\n":                 "[http://[::1]:2379 https://192.0.2.10:2379]",
		withTLS + "vips: [{address: 192.0.2.50}]\nvip_etcd: {port: 2379}\n":                   "[http://127.0.0.1:2379]",
		"client_listen: http://localhost:1,http://localhost:2\n":                              "[http://localhost:1 http://localhost:2]",
		"client_tls: {cert_file: /c, key_file: /k, trusted_ca_file: /a}\nclient_listen: :1\n": "[https://:1]",
	} {
		n, err := load1(t, good+text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		var got []string
		for _, a := range n.ClientAddresses() {
			got = append(got, a.URL())
		}
		if fmt.Sprint(got) != want {
			t.Errorf("%s: %v, want %s", text, got, want)
		}
	}
}

func TestMistakesInTheClientEndpoint(t *testing.T) {
	for text, want := range map[string]string{
		"client_listen: 0.0.0.0:2379\n":                     "client_listen: \"0.0.0.0:2379\" is not a loopback address",
		"client_listen: :2379\n":                            "client_listen: \":2379\" is not a loopback address",
		"client_listen: https://127.0.0.1:2379\n":           "client_listen: \"https://127.0.0.1:2379\" needs client_tls.cert_file",
		"client_listen: unix:///x\n":                        "client_listen: \"unix:///x\" has no port",
		"client_listen: []\n":                               "client_listen: 0 addresses",
		"client_listen: {a: b}\n":                           "cannot unmarshal",
		"client_listen: 127.0.0.1:1,http://127.0.0.1:1\n":   "client_listen: \"127.0.0.1:1\" is named twice",
		withTLS + "client_listen: http://192.0.2.10:2379\n": "client_listen: \"http://192.0.2.10:2379\" is plain text",
		withTLS:                               "client_tls: is without effect",
		"client_tls: {cert_file: /c}\n":       "client_tls.cert_file: cert_file and key_file belong together",
		"client_tls: {key_file: /k}\n":        "client_tls.cert_file: cert_file and key_file belong together",
		"client_tls: {trusted_ca_file: /c}\n": "client_tls.cert_file: is not set",
		"client_listen: :1\nclient_tls: {cert_file: c, key_file: /k}\n":                          "client_tls.cert_file: \"c\" is not an absolute path",
		"client_listen: :1\nclient_tls: {cert_file: /c, key_file: /k, client_cert_auth: true}\n": "client_tls.trusted_ca_file: client_cert_auth needs it",
		"client_tls: {cert: /c}\n": "not found in type",
	} {
		if _, err := load1(t, good+text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s:\n%v\nwant %s", text, err, want)
		}
	}
}
