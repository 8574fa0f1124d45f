package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/google/renameio/v2"
)

// Ports are a node's, all on 127.0.0.1 unless the node has a host of its own. A witness has only Raft and HTTP.
type Ports struct {
	Client   int `json:"client,omitempty"`
	Raft     int `json:"raft"`
	Peer     int `json:"peer,omitempty"`
	Postgres int `json:"postgres,omitempty"`
	// HTTP is for load balancers and Prometheus; 0: a cluster that was made without.
	HTTP int `json:"http,omitempty"`
}

// layout is what must stay as it is when a cluster is resumed.
type layout struct {
	Ports map[string]Ports `json:"ports"`
}

const layoutFile = "cluster.json"

func (l *layout) load(dir string) (bool, error) {
	b, err := os.ReadFile(filepath.Join(dir, layoutFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(b, l); err != nil {
		return false, fmt.Errorf("read %s: %w", layoutFile, err)
	}
	for _, node := range Nodes {
		if l.Ports[node].Raft == 0 {
			return false, fmt.Errorf("read %s: no ports for node %s", layoutFile, node)
		}
	}
	return true, nil
}

func (l *layout) save(dir string) error {
	b, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	return renameio.WriteFile(filepath.Join(dir, layoutFile), append(b, '\n'), 0o644)
}

// choosePorts finds free ports. All are held until the last is found, so that none is given twice.
func choosePorts(prefer map[string]Ports) (map[string]Ports, error) {
	var held []net.Listener
	defer func() {
		for _, l := range held {
			l.Close()
		}
	}()
	var firstErr error
	take := func(wanted int) int {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", wanted))
		if err != nil && wanted != 0 {
			l, err = net.Listen("tcp", "127.0.0.1:0")
		}
		if err != nil {
			firstErr = errors.Join(firstErr, fmt.Errorf("find a free port: %w", err))
			return 0
		}
		held = append(held, l)
		return l.Addr().(*net.TCPAddr).Port
	}
	out := map[string]Ports{}
	for _, node := range Nodes {
		p := Ports{Raft: take(prefer[node].Raft), HTTP: take(prefer[node].HTTP)}
		if isDataNode(node) {
			p.Client, p.Peer, p.Postgres = take(prefer[node].Client), take(prefer[node].Peer), take(prefer[node].Postgres)
		}
		out[node] = p
	}
	return out, firstErr
}

var dataNodeConfig = template.Must(template.New("").Parse(`node: {{.Node}}
data_dir: {{.Dir}}/{{.Node}}
client_listen: 127.0.0.1:{{(index .Ports .Node).Client}}
{{with .Engine}}engine: {{.}}
{{end -}}
members:
{{- range $name, $p := .Ports}}
  {{- $host := index $.Hosts $name}}
  {{$name}}: {raft: "{{$host}}:{{$p.Raft}}"{{if $p.Peer}}, peer: "{{$host}}:{{$p.Peer}}", postgres: "{{$host}}:{{$p.Postgres}}"{{end}}}
{{- end}}
{{with (index .Ports .Node).HTTP}}http_listen: 127.0.0.1:{{.}}
{{end -}}
log: {level: info, format: {{.LogFormat}}}
{{.Extra}}`))

var witnessConfig = template.Must(template.New("").Parse(`node: {{.Node}}
data_dir: {{.Dir}}/{{.Node}}
listen: "{{index .Hosts .Node}}:{{(index .Ports .Node).Raft}}"
{{with (index .Ports .Node).HTTP}}http_listen: 127.0.0.1:{{.}}
{{end -}}
log: {level: info, format: {{.LogFormat}}}
{{.Extra}}`))

func (c *Cluster) configPath(node string) string { return filepath.Join(c.dir, node+".yaml") }

func (c *Cluster) writeConfigs() error {
	format := "text"
	if c.opts.JSONLogs {
		format = "json"
	}
	hosts := map[string]string{}
	for _, node := range Nodes {
		hosts[node] = "127.0.0.1"
		if c.opts.Place != nil {
			hosts[node] = c.opts.Place.Address(node)
		}
	}
	for _, node := range Nodes {
		t := dataNodeConfig
		if !isDataNode(node) {
			t = witnessConfig
		}
		var b strings.Builder
		if err := t.Execute(&b, struct {
			Node, Dir, LogFormat, Engine, Extra string
			Ports                               map[string]Ports
			Hosts                               map[string]string
		}{node, c.dir, format, c.opts.Engine, c.opts.Extra[node], c.plan.Ports, hosts}); err != nil {
			return fmt.Errorf("write configuration of %s: %w", node, err)
		}
		if err := os.WriteFile(c.configPath(node), []byte(b.String()), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// CheckPorts says which of the cluster's ports somebody else has. To be called before the nodes are started. Nodes on hosts of their own have
// nobody to share with.
func (c *Cluster) CheckPorts() error {
	if c.opts.Place != nil {
		return nil
	}
	var errs []error
	for _, node := range Nodes {
		p := c.plan.Ports[node]
		for _, port := range []int{p.Client, p.Raft, p.Peer, p.Postgres, p.HTTP} {
			if port == 0 {
				continue
			}
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
			if err != nil {
				errs = append(errs, fmt.Errorf("node %s: %w", node, err))
				continue
			}
			l.Close()
		}
	}
	return errors.Join(errs...)
}
