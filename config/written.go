package config

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Where things are that are not said otherwise, as the packages have them.
const (
	DefaultNodeFile    = "/etc/kineshim/kineshim.yaml"
	DefaultNodeDir     = "/var/lib/kineshim"
	DefaultWitnessFile = "/etc/raftwitness/raftwitness.yaml"
	DefaultWitnessDir  = "/var/lib/raftwitness"
)

// The ports of a member that has no others.
const (
	DefaultRaftPort     = 2384
	DefaultPeerPort     = 2383
	DefaultPostgresPort = 5433
)

// defaultHTTPListen is in files that are written for somebody, so that the node can be watched.
const defaultHTTPListen = "127.0.0.1:8008"

// sharedKeys are what a data node that joins takes over from the founder. What names files, addresses or accounts of one machine is not among them.
var sharedKeys = []string{"engine", "native", "max_wait", "timing", "vips", "apiserver", "certificate_lifetime"}

// Shared is the part of a data node's file that the other one is to have too, as YAML, with its comments.
func Shared(path string) (string, error) {
	b, err := read(path)
	if err != nil {
		return "", err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(b, &doc); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return "", nil
	}
	top := doc.Content[0]
	var kept []*yaml.Node
	for i := 0; i+1 < len(top.Content); i += 2 {
		if slices.Contains(sharedKeys, top.Content[i].Value) {
			kept = append(kept, top.Content[i], top.Content[i+1])
		}
	}
	if len(kept) == 0 {
		return "", nil
	}
	top.Content = kept
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	err = e.Encode(top)
	return out.String(), err
}

// Written is a data node's file that is written for somebody.
type Written struct {
	// By is the command that writes it.
	By string
	// Name is the node's, DataDir where its data go. ClientListen and HTTPListen may be "".
	Name, DataDir            string
	ClientListen, HTTPListen string
	// Shared is YAML of further keys.
	Shared string
}

// Text is the file.
func (w Written) Text() []byte {
	client, http := w.ClientListen, w.HTTPListen
	if client == "" {
		client = DefaultClientListen // with its scheme: it stays in clear when TLS is added for others
	}
	if http == "" {
		http = defaultHTTPListen
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# Written by %s. Every key there is: configuration.md, in /usr/share/doc/kineshim. The addresses of the three members are those of their\n", w.By)
	fmt.Fprintf(&b, "# enrolment, in %s/identity.json; `members` overrides them.\n", w.DataDir)
	fmt.Fprintf(&b, "node: %s\ndata_dir: %s\nclient_listen: %s\nhttp_listen: %s\n%s", quoted(w.Name), quoted(w.DataDir), quoted(client), quoted(http), w.Shared)
	return []byte(b.String())
}

// WitnessText is a witness's file that is written for somebody by a command.
func WitnessText(by, name, dataDir, listen string) []byte {
	return fmt.Appendf(nil, "# Written by %s. Every key there is: configuration.md, in /usr/share/doc/raftwitness.\nnode: %s\ndata_dir: %s\nlisten: %s\nhttp_listen: %s\n",
		by, quoted(name), quoted(dataDir), quoted(listen), quoted(defaultHTTPListen))
}

// quoted makes YAML of one value.
func quoted(s string) string {
	b, err := yaml.Marshal(s)
	if err != nil {
		panic(err) // of a string
	}
	return strings.TrimSuffix(string(b), "\n")
}

// SharedText is YAML of what a founder is told on its command line. Each may be left out.
func SharedText(vips []string, apiServerListen string) (string, error) {
	var n struct {
		VIPs      []VIP     `yaml:"vips,omitempty"`
		APIServer APIServer `yaml:"apiserver,omitempty"`
	}
	for _, v := range vips {
		n.VIPs = append(n.VIPs, VIP{Address: v})
	}
	n.APIServer.Listen = apiServerListen
	if len(n.VIPs) == 0 && apiServerListen == "" {
		return "", nil
	}
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	err := e.Encode(n)
	return out.String(), err
}
