package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// BinDirEnv names the environment variable with the directory of binaries that were built before.
const BinDirEnv = "KINESHIM_BIN_DIR"

// Binaries are the paths of what a cluster runs, and of its operator's command; Shimctl is "" where there is none.
type Binaries struct{ Kineshim, Raftwitness, Shimctl string }

// BinariesIn takes the binaries from a directory.
func BinariesIn(dir string) (Binaries, error) {
	b := Binaries{Kineshim: filepath.Join(dir, "kineshim"), Raftwitness: filepath.Join(dir, "raftwitness")}
	for _, path := range []string{b.Kineshim, b.Raftwitness} {
		if _, err := os.Stat(path); err != nil {
			return Binaries{}, fmt.Errorf("find binaries: %w", err)
		}
	}
	if path := filepath.Join(dir, "shimctl"); exists(path) {
		b.Shimctl = path
	}
	return b, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Build takes the binaries from the directory that the environment names, or else builds them into dir. It must run inside the module.
func Build(ctx context.Context, dir string) (Binaries, error) {
	if built := os.Getenv(BinDirEnv); built != "" {
		return BinariesIn(built)
	}
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return Binaries{}, fmt.Errorf("build: %w", err)
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-o", dir+"/", "./cmd/kineshim", "./cmd/raftwitness", "./cmd/shimctl")
	cmd.Dir = filepath.Dir(strings.TrimSpace(string(out)))
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return Binaries{}, fmt.Errorf("build: %w\n%s", err, out)
	}
	return BinariesIn(dir)
}
