package linearizability

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"kineshim.example/linearizability/mutant"
	"kineshim/integration/cluster"
)

// sources is the directory of the product's source.
func sources(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "kineshim").Output()
	if err != nil {
		return "", fmt.Errorf("find the sources: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// Overlay writes a mutant of the product into dir, and returns what Build takes to build it.
func Overlay(ctx context.Context, m mutant.Mutant, dir string) (string, error) {
	root, err := sources(ctx)
	if err != nil {
		return "", err
	}
	return m.Overlay(root, dir)
}

// Build takes the binaries from the directory that the environment names, or builds them into dir. With an overlay they are always built.
func Build(ctx context.Context, dir, overlay string) (cluster.Binaries, error) {
	if built := os.Getenv(cluster.BinDirEnv); built != "" && overlay == "" {
		return cluster.BinariesIn(built)
	}
	root, err := sources(ctx)
	if err != nil {
		return cluster.Binaries{}, err
	}
	args := []string{"build", "-buildvcs=false", "-o", dir + "/"}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "./cmd/kineshim", "./cmd/raftwitness")...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return cluster.Binaries{}, errors.Join(fmt.Errorf("build: %w", err), errors.New(string(out)))
	}
	return cluster.BinariesIn(dir)
}
