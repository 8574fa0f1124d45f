package integration

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// dependencies of a package of this module, its own and others', the package itself left out.
func dependencies(t *testing.T, pkg string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "kineshim/"+pkg).Output()
	if err != nil {
		t.Fatalf("go list -deps kineshim/%s: %v", pkg, err)
	}
	deps := strings.Fields(string(out))
	return deps[:len(deps)-1] // the package itself comes last
}

// anybodys are small and link nothing of this module: whoever has to do with strangers may use them.
var anybodys = []string{"kineshim/durable", "kineshim/quiet", "kineshim/turnstile"}

// What may not be linked into what: the witness stays small, the three parts know one another only through cmd, and what
// decides does nothing else.
func TestDependenciesPointOneWay(t *testing.T) {
	for pkg, forbidden := range map[string][]string{
		"cmd/raftwitness":     {"github.com/jackc/", "go.etcd.io/etcd/", "google.golang.org/grpc", "github.com/k3s-io/", "github.com/vishvananda/", "kineshim/kineshim", "kineshim/failover", "kineshim/proto", "kineshim/balancer", "kineshim/pgrelay", "kineshim/monitor/nodemetrics", "kineshim/doctor", "github.com/prometheus/"},
		"raftwitness":         {"kineshim/kineshim", "kineshim/failover", "kineshim/proto", "kineshim/config"},
		"failover":            {"kineshim/kineshim", "go.etcd.io/etcd/", "github.com/k3s-io/", "github.com/hashicorp/raft"},
		"kineshim":            {"kineshim/failover", "github.com/hashicorp/raft"},
		"failover/vip":        {"kineshim/"},
		"balancer":            {"kineshim/"},
		"monitor":             {"kineshim/", "github.com/", "google.golang.org/"},
		"monitor/nodemetrics": {"kineshim/kineshim", "kineshim/failover", "kineshim/raftwitness", "kineshim/proto"},
		"pgrelay":             {"kineshim/kineshim", "kineshim/failover", "kineshim/config"},
		"pgwire":              {"kineshim/"},
		"failover/decide":     {"context", "log", "log/slog", "net", "kineshim/failover/postgres", "kineshim/proto"},
		"raftwitness/record":  {"context", "log", "log/slog", "net", "github.com/"},
		"tlsfiles":            {"kineshim/", "github.com/", "google.golang.org/"},
		"kineshim/auth":       {"kineshim/"},
		"pki":                 {"kineshim/", "google.golang.org/"},
		"quiet":               {"context", "log", "log/slog", "net", "os", "kineshim/", "github.com/"},
		"turnstile":           {"kineshim/", "github.com/", "google.golang.org/"},
	} {
		deps := dependencies(t, pkg)
		if len(deps) < 3 {
			t.Errorf("%s: go list names only %v", pkg, deps)
		}
		for _, dep := range deps {
			if slices.Contains(anybodys, dep) {
				continue
			}
			for _, f := range forbidden {
				exact := !strings.ContainsAny(f, "/.") // of the standard library
				if dep == f || !exact && strings.HasPrefix(dep, f) || strings.HasPrefix(dep, f+"/") && !exact {
					t.Errorf("%s links %s", pkg, dep)
				}
			}
		}
	}
	// The record is all that the failover agent may know of the witness's package.
	for _, dep := range append(dependencies(t, "failover"), dependencies(t, "kineshim")...) {
		if strings.HasPrefix(dep, "kineshim/raftwitness") && dep != "kineshim/raftwitness/record" {
			t.Errorf("failover or kineshim links %s", dep)
		}
	}
}
