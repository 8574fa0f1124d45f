// Command lab runs rows of the failure matrix for real: two data nodes and a witness on three hosts made of network namespaces, with disks
// of their own. It prints the story of each row, and a table of all.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"kineshim/integration/cluster"
	"kineshim/integration/lab"
	"kineshim/integration/lab/site"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run returns the exit code: 0 all rows passed, 1 some did not, 2 called wrongly.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("lab", flag.ContinueOnError)
	flags.SetOutput(stderr)
	numbers := flags.String("rows", "", "the rows to run, such as 19,53a; empty: all that can be run")
	quick := flags.Bool("quick", false, "run the rows of the quick selection only")
	list := flags.Bool("list", false, "list the rows, and why some are not run")
	check := flags.Bool("check", false, "say whether the lab can be made here, and do nothing else")
	clean := flags.Bool("clean", false, "remove what killed labs have left, and do nothing else")
	keep := flags.String("out", filepath.Join(os.TempDir(), "kineshim-lab"), "directory for timelines, and for the logs of rows that fail")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	switch {
	case *list:
		printRows(stdout)
		return 0
	case *check:
		if err := site.Supported(); err != nil {
			fmt.Fprintln(stderr, "lab:", err)
			return 1
		}
		return 0
	case *clean:
		return sweep(stdout, stderr)
	}
	rows, err := choose(*numbers, *quick)
	if err != nil {
		fmt.Fprintln(stderr, "lab:", err)
		return 2
	}
	passed, err := runRows(ctx, rows, *keep, stdout)
	if err != nil {
		fmt.Fprintln(stderr, "lab:", err)
	}
	if err != nil || !passed {
		return 1
	}
	return 0
}

func sweep(stdout, stderr io.Writer) int {
	swept, err := site.Sweep()
	for _, name := range swept {
		fmt.Fprintln(stdout, "removed", name)
	}
	if err != nil {
		fmt.Fprintln(stderr, "lab:", err)
		return 1
	}
	return 0
}

// choose picks the rows.
func choose(numbers string, quick bool) ([]*lab.Row, error) {
	var rows []*lab.Row
	for _, n := range strings.FieldsFunc(numbers, func(r rune) bool { return r == ',' || r == ' ' }) {
		row := lab.RowOf(n)
		switch {
		case row == nil:
			return nil, fmt.Errorf("the failure matrix has no row %q", n)
		case row.Run == nil:
			return nil, fmt.Errorf("row %s is not tried here: %s", n, row.Lacks)
		}
		rows = append(rows, row)
	}
	if len(rows) > 0 {
		return rows, nil
	}
	for i := range lab.Rows {
		if row := &lab.Rows[i]; row.Run != nil && (row.Quick || !quick) {
			rows = append(rows, row)
		}
	}
	// A row with a cluster of its own ends the one that the others share.
	slices.SortStableFunc(rows, func(x, y *lab.Row) int {
		switch {
		case (x.Options == nil) == (y.Options == nil):
			return 0
		case x.Options == nil:
			return -1
		}
		return 1
	})
	return rows, nil
}

func runRows(ctx context.Context, rows []*lab.Row, keep string, out io.Writer) (passed bool, err error) {
	if err := site.Supported(); err != nil {
		return false, err
	}
	bin, err := os.MkdirTemp("", "kineshim-bin-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(bin)
	binaries, err := cluster.Build(ctx, bin)
	if err != nil {
		return false, err
	}
	l, err := lab.New(lab.Options{Binaries: binaries, Out: out, KeepDir: keep})
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	began := time.Now()
	var results []lab.Result
	passed = true
	for _, row := range rows {
		if ctx.Err() != nil {
			break
		}
		r := l.Run(ctx, row)
		results = append(results, r)
		passed = passed && r.Passed()
		fmt.Fprintln(out)
	}
	fmt.Fprint(out, lab.Table(results))
	fmt.Fprintf(out, "%s in all; timelines are in %s\n", time.Since(began).Round(time.Second), keep)
	return passed && ctx.Err() == nil, context.Cause(ctx)
}

func printRows(out io.Writer) {
	for i := range lab.Rows {
		row := &lab.Rows[i]
		how := "run"
		switch {
		case row.Run == nil:
			how = row.Lacks
		case row.Lacks != "":
			how = "run, but for a part: " + row.Lacks
		}
		fmt.Fprintf(out, "%-4s %s\n     right: %s; serves after: %s\n     %s\n", row.Number, row.Failure, row.Right, row.Serves, how)
	}
}
