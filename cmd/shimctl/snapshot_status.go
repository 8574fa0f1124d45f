package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"kineshim/kineshim/snapshot"
)

func (a *app) snapshotStatusCommand() *cobra.Command {
	format := asTable
	cmd := &cobra.Command{
		Use:   "status FILE",
		Short: "verify FILE and say what it holds",
		Long: `status reads FILE to its end, checks it against its checksum, and says what it holds. It needs no node.

The exit code is 0 only for a file that can be restored.`,
		Example: `  shimctl snapshot status /backup/today.snap
  shimctl snapshot status -o json /backup/today.snap | jq .revision`,
		Args: oneFile,
		RunE: command(func(_ context.Context, args []string) error { return a.showSnapshot(args[0], format) }),
	}
	cmd.Flags().VarP(&format, "output", "o", "output format")
	return cmd
}

func (a *app) showSnapshot(path string, format outputFormat) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	h, size, err := verifySnapshot(f)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	text := renderSnapshot(path, h, size)
	if format == asJSON {
		if text, err = snapshotJSON(path, h, size); err != nil {
			return err
		}
	}
	if _, err := io.WriteString(a.stdout, text); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// verifySnapshot reads a file from its beginning to its end.
func verifySnapshot(f *os.File) (h snapshot.Header, size int64, err error) {
	info, err := f.Stat()
	if err != nil {
		return h, 0, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return h, 0, err
	}
	h, err = snapshot.Verify(f)
	return h, info.Size(), err
}

func renderSnapshot(path string, h snapshot.Header, size int64) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s is whole.\n\n", path)
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "taken\t%s, %s ago by this machine's clock\n", h.Taken.Format(time.DateTime), showMillis(max(0, time.Since(h.Taken).Milliseconds())))
	fmt.Fprintf(w, "cluster\t%s\n", orDash(h.ClusterID))
	fmt.Fprintf(w, "revision\t%d\n", h.Revision)
	fmt.Fprintf(w, "keys\t%d\n", h.Keys)
	fmt.Fprintf(w, "leases\t%d\n", h.Leases)
	fmt.Fprintf(w, "size\t%s (%d bytes)\n", showBytes(uint64(size)), size)
	fmt.Fprintf(w, "taken by\t%s\n", orDash(h.Software))
	_ = w.Flush() // to a strings.Builder
	return b.String()
}

// snapshotJSON has every field, always. Numbers are numbers.
func snapshotJSON(path string, h snapshot.Header, size int64) (string, error) {
	b, err := json.MarshalIndent(struct {
		File      string `json:"file"`
		SizeBytes int64  `json:"sizeBytes"`
		ClusterID string `json:"clusterId"`
		Software  string `json:"software"`
		Taken     string `json:"taken"` // RFC 3339
		Revision  int64  `json:"revision"`
		Compacted int64  `json:"compacted"` // -1: never
		Keys      int64  `json:"keys"`
		Leases    int64  `json:"leases"`
	}{path, size, h.ClusterID, h.Software, h.Taken.UTC().Format(time.RFC3339Nano), h.Revision, h.Compacted, h.Keys, h.Leases}, "", "  ")
	if err != nil {
		return "", fmt.Errorf("encode: %w", err)
	}
	return string(b) + "\n", nil
}
