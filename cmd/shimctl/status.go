package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	protolib "google.golang.org/protobuf/proto"

	"kineshim/proto"
)

const (
	// defaultWatch is --watch without an interval.
	defaultWatch = "1s"
	// minWatch keeps --watch from keeping a node busy: the nodes themselves exchange their state every 100 ms.
	minWatch = 100 * time.Millisecond
)

func (a *app) statusCommand() *cobra.Command {
	var watch time.Duration
	format := asTable
	cmd := &cobra.Command{
		Use:   "status",
		Short: "show each node, and whether an automatic failover would succeed",
		Long: `status shows who serves, whether an automatic failover is armed (and if not, why not and what
to do), and each node's role, health, WAL position, lag, timeline, Raft lease and gate.

The exit code is for scripts: 0 serving and armed, 3 serving but not armed, 4 nobody serves,
1 no node could be asked.`,
		Example: `  shimctl status
  shimctl status --watch           drawn again every second; Ctrl-C ends
  shimctl status --watch=5s
  shimctl status -o json | jq -r '.nodes[] | .name + " " + .health'
  shimctl status >/dev/null || echo "look at the cluster"`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) > 0:
				return fmt.Errorf("status takes no argument %q (an interval is given as --watch=2s)", args[0])
			case watch != 0 && watch < minWatch:
				return fmt.Errorf("--watch=%v is shorter than %v", watch, minWatch)
			}
			return nil
		},
		RunE: command(func(ctx context.Context, _ []string) error {
			if watch > 0 {
				return a.watchStatus(ctx, watch, format)
			}
			return a.showStatus(ctx, format)
		}),
	}
	cmd.Flags().VarP(&format, "output", "o", "output format")
	cmd.Flags().DurationVarP(&watch, "watch", "w", 0, "show it again and again, every second or at the interval given")
	cmd.Flags().Lookup("watch").NoOptDefVal = defaultWatch
	return cmd
}

func (a *app) showStatus(ctx context.Context, format outputFormat) error {
	n, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer n.close()
	text := renderStatus(n.status)
	if format == asJSON {
		if text, err = renderJSON(n.status); err != nil {
			return err
		}
	}
	if _, err := io.WriteString(a.stdout, text); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return statusExit(n.status)
}

// statusExit is nil when the cluster is as it should be.
func statusExit(st *proto.StatusResponse) error {
	switch {
	case !st.GetServing():
		return &exitError{code: exitNotServing}
	case !st.GetArmed():
		return &exitError{code: exitNotArmed}
	default:
		return nil
	}
}

// watchStatus shows the status again and again until ctx ends; the exit code is that of the last one.
func (a *app) watchStatus(ctx context.Context, every time.Duration, format outputFormat) error {
	s := &screen{out: a.stdout, redraw: isTerminal(a.stdout) && format == asTable, every: every}
	tick := time.NewTicker(every)
	defer tick.Stop()
	var n *node
	defer func() {
		if n != nil {
			n.close()
		}
	}()
	var last error
	for {
		st, err := a.poll(ctx, &n)
		if ctx.Err() != nil {
			return last
		}
		switch {
		case err != nil:
			last = &exitError{code: exitFailed}
			err = s.showError(err, format, a.stderr)
		case format == asJSON:
			last = statusExit(st)
			err = s.showJSON(st)
		default:
			last = statusExit(st)
			err = s.show(renderStatus(st))
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return last
		case <-tick.C:
		}
	}
}

// poll asks the node that answered last, and looks for another one when it doesn't any more. *n is nil when none answers.
func (a *app) poll(ctx context.Context, n **node) (*proto.StatusResponse, error) {
	if *n != nil {
		ask, cancel := context.WithTimeout(ctx, a.timeout)
		st, err := (*n).control.Status(ask, &proto.StatusRequest{})
		cancel()
		if err == nil {
			return st, nil
		}
		(*n).close()
		*n = nil
	}
	fresh, err := a.connect(ctx, nil)
	if err != nil {
		return nil, err
	}
	*n = fresh
	return fresh.status, nil
}

// renderJSON is the answer as protojson with every field present, in a stable layout (protojson's own is random on purpose).
func renderJSON(m protolib.Message) (string, error) {
	b, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return "", fmt.Errorf("encode: %w", err)
	}
	var out bytes.Buffer
	if err := errors.Join(json.Indent(&out, b, "", "  "), out.WriteByte('\n')); err != nil {
		return "", fmt.Errorf("encode: %w", err)
	}
	return out.String(), nil
}

// screen shows one status after the other.
type screen struct {
	out io.Writer
	// redraw: out is a terminal, and each status takes the place of the one before.
	redraw bool
	every  time.Duration
	drawn  bool
}

func (s *screen) show(text string) error {
	now := time.Now().Format(time.TimeOnly)
	var b bytes.Buffer
	if s.redraw {
		if !s.drawn {
			b.WriteString("\x1b[2J") // clear once
		}
		b.WriteString("\x1b[H") // and from then on write over it, which doesn't flicker
		frame := fmt.Sprintf("%s, every %v; Ctrl-C ends\n\n%s", now, s.every, text)
		b.Write(bytes.ReplaceAll([]byte(frame), []byte("\n"), []byte("\x1b[K\n")))
		b.WriteString("\x1b[J")
	} else {
		if s.drawn {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s\n%s", now, text)
	}
	s.drawn = true
	_, err := s.out.Write(b.Bytes())
	return err
}

// showJSON writes one line, so that a reader can take them apart.
func (s *screen) showJSON(st *proto.StatusResponse) error {
	text, err := renderJSON(st)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := json.Compact(&b, []byte(text)); err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	b.WriteByte('\n')
	_, err = s.out.Write(b.Bytes())
	return err
}

// showError shows that no node answers; a stream of JSON stays JSON.
func (s *screen) showError(err error, format outputFormat, stderr io.Writer) error {
	text := fmt.Sprintf("no node answers\n%s\n", indent(err.Error()))
	if format == asJSON {
		_, err := io.WriteString(stderr, "shimctl: "+text)
		return err
	}
	return s.show(text)
}
