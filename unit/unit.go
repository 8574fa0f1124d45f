// Package unit has systemd start a service of ours, where there is a systemd that knows it.
package unit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
)

// booted is there if systemd runs this machine: sd_booted(3).
const booted = "/run/systemd/system"

// Known says whether systemd runs here and knows the service.
func Known(ctx context.Context, service string) bool {
	if _, err := os.Stat(booted); errors.Is(err, fs.ErrNotExist) {
		return false
	}
	return systemctl(ctx, "cat", service) == nil
}

// Start starts the service, unless it runs, and has it start with the machine. It returns when the service says that it is ready.
func Start(ctx context.Context, service string) error {
	return systemctl(ctx, "enable", "--now", service)
}

// Restart starts the service, or starts it anew if it runs, and has it start with the machine. It returns when the service says that it is ready.
func Restart(ctx context.Context, service string) error {
	if err := systemctl(ctx, "enable", service); err != nil {
		return err
	}
	return systemctl(ctx, "restart", service)
}

func systemctl(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
