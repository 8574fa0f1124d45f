package doctor

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"kineshim/failover/postgres"
)

// localPostgres is this machine's. etc is where Debian's postgresql-common keeps clusters.
type localPostgres struct{ etc string }

const debianClusters = "/etc/postgresql"

// Find is postgres.FindPrograms.
func (localPostgres) Find(ctx context.Context, binDir, dataDir string) (postgres.Programs, error) {
	return postgres.FindPrograms(ctx, binDir, dataDir)
}

var portSetting = regexp.MustCompile(`(?m)^\s*port\s*=?\s*(\d+)`)

// Distribution reads VERSION/NAME/postgresql.conf and start.conf. What cannot be read is left out: it is not ours.
func (p localPostgres) Distribution() []DistributionCluster {
	confs, _ := filepath.Glob(filepath.Join(p.etc, "*", "*", "postgresql.conf")) // the pattern is good
	var all []DistributionCluster
	for _, conf := range confs {
		b, err := os.ReadFile(conf)
		if err != nil {
			continue
		}
		dir := filepath.Dir(conf)
		c := DistributionCluster{Name: filepath.Base(filepath.Dir(dir)) + "/" + filepath.Base(dir), Config: conf, Port: "5432"}
		if m := portSetting.FindAllSubmatch(b, -1); m != nil {
			c.Port = string(m[len(m)-1][1]) // as PostgreSQL, the last one counts
		}
		start, err := os.ReadFile(filepath.Join(dir, "start.conf"))
		c.Automatic = err != nil || startsByItself(string(start))
		all = append(all, c)
	}
	return all
}

// startsByItself reads a start.conf: auto, manual or disabled, below comments.
func startsByItself(conf string) bool {
	for line := range strings.Lines(conf) {
		line, _, _ = strings.Cut(line, "#")
		if word := strings.TrimSpace(line); word != "" {
			return word == "auto"
		}
	}
	return true
}
