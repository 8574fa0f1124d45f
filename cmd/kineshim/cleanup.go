package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"kineshim/config"
	"kineshim/failover/postgres"
	"kineshim/failover/vip"
)

// cleanUpWithin bounds a clean-up: it stands between the end of a kineshim and the start of the next.
const cleanUpWithin = 15 * time.Second

// cleanUp ends the PostgreSQL and takes away the virtual addresses that a killed kineshim has left, of this configuration and no other. Without
// leftovers it changes nothing; while a kineshim runs with the data directory, it refuses.
func cleanUp(ctx context.Context, cfg config.Node, log *slog.Logger, stdout io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, cleanUpWithin)
	defer cancel()
	closePostgres, err := cleanUpPostgres(ctx, cfg, log, stdout)
	if errors.Is(err, postgres.ErrInUse) {
		return fmt.Errorf("%w: nothing was cleaned up, as kineshim runs", err)
	}
	return errors.Join(err, cleanUpVIPs(cfg, stdout), closePostgres(ctx))
}

// cleanUpPostgres owns the data directory, so that no kineshim begins meanwhile, until what it returns is called.
func cleanUpPostgres(ctx context.Context, cfg config.Node, log *slog.Logger, stdout io.Writer) (done func(context.Context) error, err error) {
	nothing := func(context.Context) error { return nil }
	pc, err := postgresConfig(cfg, postgres.NewSecrets(), log) // it speaks with no database
	if err != nil {
		return nothing, err
	}
	pg, err := postgres.New(pc)
	if err != nil {
		return nothing, err
	}
	ended, err := pg.CleanUp(ctx)
	for _, p := range ended {
		fmt.Fprintf(stdout, "ended %s in %s\n", p, pc.DataDir)
	}
	return pg.Close, err
}

func cleanUpVIPs(cfg config.Node, stdout io.Writer) error {
	vips, err := configuredVIPs(cfg)
	if err != nil || len(vips) == 0 {
		return err
	}
	var kernel vip.Kernel
	defer kernel.Close()
	removed, err := vip.CleanUp(&kernel, vips)
	for _, p := range removed {
		fmt.Fprintf(stdout, "removed %s from %s\n", p.Address, p.Interface)
	}
	return err
}
