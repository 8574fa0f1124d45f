package config

import (
	"strings"
	"testing"
)

func TestVirtualAddresses(t *testing.T) {
	for s, want := range map[string]string{
		"192.0.2.50": "192.0.2.50/32", "192.0.2.50/24": "192.0.2.50/24", "2001:db8::1": "2001:db8::1/128", "2001:db8::1/64": "2001:db8::1/64",
		"fe80::1": "", "fe80::1%eth0": "", "127.0.0.1": "", "0.0.0.0": "", "224.0.0.1": "", "ff02::1": "", "::ffff:192.0.2.1": "", "host": "", "192.0.2.1/0": "", "": "",
	} {
		if p, err := parseVIP(s); (err == nil) != (want != "") || err == nil && p.String() != want {
			t.Errorf("%q: %v, %v", s, p, err)
		}
	}
}

func TestVIPsAreRead(t *testing.T) {
	n, err := load1(t, good+`
vips:
  - address: 192.0.2.50
  - {address: "2001:db8::50/64", interface: eth0, hook: [/usr/local/bin/move, x], hook_only: true, hook_timeout: 30s}
vip_etcd: {port: 2379, accept_plain_text: true}
`)
	if err != nil {
		t.Fatal(err)
	}
	if v := n.VIPs[0]; v.HookTimeout != DefaultHookTimeout || v.HookOnly || v.Interface != "" {
		t.Errorf("%+v", v)
	}
	if v := n.VIPs[1]; v.Hook[1] != "x" || !v.HookOnly || v.Interface != "eth0" || v.HookTimeout.Seconds() != 30 {
		t.Errorf("%+v", v)
	}
	if n.VIPEtcd.Port != 2379 {
		t.Errorf("%+v", n.VIPEtcd)
	}
}

func TestMistakesInVIPs(t *testing.T) {
	for text, want := range map[string]string{
		"vips: [{address: 192.0.2.10}]":                           "vips.0.address: 192.0.2.10 is a's own address",
		"vips: [{address: 192.0.2.50}, {address: 192.0.2.50/24}]": "vips.1.address: 192.0.2.50 is named twice",
		"vips: [{address: nowhere}]":                              "vips.0.address: \"nowhere\" is not an IP address",
		"vips: [{address: 192.0.2.50, hook: [move]}]":             "vips.0.hook: \"move\" is not an absolute path",
		"vips: [{address: 192.0.2.50, hook_only: true}]":          "vips.0.hook_only: there is no hook",
		"vips: [{address: 192.0.2.50, hook_timeout: 1h}]":         "vips.0.hook_timeout: 1h0m0s is outside",
		"vips: [{addr: 192.0.2.50}]":                              "not found in type",
		"vip_etcd: {port: 2379, accept_plain_text: true}":         "vip_etcd: there are no vips",
		"vips: [{address: 192.0.2.50}]\nvip_etcd: {port: 2379}":   "vip_etcd.accept_plain_text: without client_tls",
		"vips: [{address: 192.0.2.50}]\nvip_etcd: {port: 2379, accept_plain_text: true}\nclient_tls: {cert_file: /c, key_file: /k}": "vip_etcd.accept_plain_text: client_tls is set",
		"vips: [{address: 192.0.2.50}]\nvip_etcd: {accept_plain_text: true}":                                                        "vip_etcd.port: 0 is not between",
	} {
		if _, err := load1(t, good+text+"\n"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s:\n%v\nwant %s", text, err, want)
		}
	}
}
