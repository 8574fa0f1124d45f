package config

import (
	"strings"
	"testing"
)

func TestApplications(t *testing.T) {
	n, err := load1(t, good+`
vips: [{address: 192.0.2.50}]
applications:
  port: 5432
  listen: [192.0.2.10:5432]
  accept_plain_text: true
  from: [192.0.2.7/24]
  databases:
    - {name: shop, password_file: /etc/kineshim/shop.password}
    - {name: blog, user: writer, password_file: /etc/kineshim/blog.password, connections: 5}
`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := load1(t, good+"applications: {listen: [\":5432\"], cert_file: /c, key_file: /k, databases: [{name: shop, password_file: /x}]}\n"); err != nil {
		t.Errorf("with TLS, and no plain text: %v", err)
	}
	a := n.Applications
	if a.Databases[0].User != "shop" || a.Databases[0].Connections != DefaultAppConnections || a.Databases[1].User != "writer" || a.TotalConnections() != 25 {
		t.Errorf("%+v", a)
	}
	if nets, err := a.Networks(); err != nil || nets[0].String() != "192.0.2.0/24" {
		t.Errorf("%v, %v", nets, err)
	}
}

func TestMistakesInApplications(t *testing.T) {
	const db = "databases: [{name: shop, password_file: /x}]"
	for text, want := range map[string]string{
		"{port: 5432, accept_plain_text: true, " + db + "}":                                  "applications.port: there are no vips",
		"{port: 70000, accept_plain_text: true, " + db + "}":                                 "applications.port: 70000 is not between",
		"{accept_plain_text: true, " + db + "}":                                              "applications: neither port nor listen",
		"{listen: [\"x\"], accept_plain_text: true, " + db + "}":                             `applications.listen.0: "x" is not host:port`,
		"{listen: [\":5432\"], " + db + "}":                                                  "applications.accept_plain_text: there is no TLS",
		"{listen: [\":5432\"], cert_file: /c, " + db + "}":                                   "applications.cert_file: cert_file and key_file belong together",
		"{listen: [\":5432\"], cert_file: c, key_file: /k, " + db + "}":                      `applications.cert_file: "c" is not an absolute path`,
		"{cert_file: /c, key_file: /k}":                                                      "applications: neither port nor listen",
		"{listen: [\":5432\"], accept_plain_text: true}":                                     "applications.databases: 0 is outside",
		"{listen: [\":5432\"], accept_plain_text: true, from: [here], " + db + "}":           `applications.from: "here" is not a network`,
		"{listen: [\":5432\"], accept_plain_text: true, databases: [{name: shop}]}":          "applications.databases.0.password_file",
		"{listen: [\":5432\"], accept_plain_text: true, database: []}":                       "not found in type",
		"{databases: [{name: a, password_file: /x}, {name: b, user: a, password_file: /x}]}": "applications.databases.1: the database or the user is named before",
		"{databases: [{name: a, password_file: /x, connections: 66}]}":                       "applications.databases: twice 66 connections in all, 20 that begin, and 50 for kineshim itself, are more than PostgreSQL's max_connections, 200",
		"{databases: [{name: a, password_file: /x, connections: -1}]}":                       "applications.databases.0.connections: -1 is less than 1",
	} {
		if _, err := load1(t, good+"applications: "+text+"\n"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s:\n%v\nwant %s", text, err, want)
		}
	}
}
