package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLimits(t *testing.T) {
	for name, tc := range map[string]struct {
		lines, mistake string
		want           int
	}{
		"nothing said": {"", "", DefaultMaxConnections},
		"as said":      {"limits: {max_connections: 300}\n", "", 300},
		"too few":      {"limits: {max_connections: 99}\n", "limits.max_connections: 99 is outside 100 to 1000000", 0},
		"too many":     {"limits: {max_connections: 1000001}\n", "limits.max_connections", 0},
	} {
		path := filepath.Join(t.TempDir(), "node.yaml")
		if err := os.WriteFile(path, []byte(smallNode+tc.lines), 0o600); err != nil {
			t.Fatal(err)
		}
		n, err := LoadNode(path)
		switch {
		case tc.mistake != "":
			if err == nil || !strings.Contains(err.Error(), tc.mistake) {
				t.Errorf("%s: %v", name, err)
			}
		case err != nil || n.Limits.MaxConnections != tc.want:
			t.Errorf("%s: %d, %v", name, n.Limits.MaxConnections, err)
		}
	}
}
