package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"kineshim/proto"
)

// maxAnswer bounds what is read as an answer, in bytes.
const maxAnswer = 1024

// forcePromote shows what would be lost, asks, and promotes. The target itself is asked: it alone knows what it has.
func (a *app) forcePromote(ctx context.Context, target string, wait time.Duration) error {
	n, err := a.connect(ctx, func(st *proto.StatusResponse) error {
		if err := checkDataNode(st, target); err != nil {
			return err
		}
		if st.GetNode() != target {
			return fmt.Errorf("this is %s: a forced promotion must be asked of %s itself; run shimctl there, or name its socket with --socket",
				st.GetNode(), target)
		}
		return nil
	})
	if err != nil {
		var exit *exitError
		if errors.As(err, &exit) {
			return exit
		}
		return fmt.Errorf("%s does not answer\n%s", target, indent(err.Error()))
	}
	defer n.close()

	ask, cancel := context.WithTimeout(ctx, a.timeout)
	preview, err := n.control.PreviewForce(ask, &proto.PreviewForceRequest{Node: target})
	cancel()
	if err != nil {
		return explainCall(n.socket, err)
	}
	if !preview.GetPossible() {
		return refused(target, preview.GetReason())
	}
	fmt.Fprint(a.stdout, renderPreview(n.status, target, preview))
	if err := a.confirm(ctx, "promote "+target); err != nil {
		return err
	}
	return a.promote(ctx, n, &proto.PromoteRequest{Node: target, Force: true, Operator: operator(), Confirm: preview.GetConfirm()}, wait)
}

// renderPreview says what a forced promotion costs and what must be done before it.
func renderPreview(st *proto.StatusResponse, target string, p *proto.PreviewForceResponse) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Forced promotion of %s.\n\n", target)
	old := st.GetPrimary()
	if old == "" || old == target {
		old = st.OtherData(target)
	}
	heard := "It has not been heard since this kineshim started."
	if p.GetPrimarySilentMs() > 0 {
		heard = fmt.Sprintf("It was last heard %s ago.", showMillis(p.GetPrimarySilentMs()))
	}
	switch {
	case !p.GetLossKnown():
		fmt.Fprintf(&b, "  Lost: NOT KNOWN. %s can't tell how far %s had written. %s\n", target, old, heard)
		fmt.Fprintf(&b, "  Acknowledged writes may be lost, and the cluster's state may jump back in time.\n")
	case p.GetLossBytes() == 0:
		fmt.Fprintf(&b, "  Lost: nothing that is known of. %s has all that %s had written when it was last heard.\n", target, old)
		fmt.Fprintf(&b, "  %s What it acknowledged alone after that would be lost.\n", heard)
	default:
		fmt.Fprintf(&b, "  Lost: %s of WAL (%d bytes)%s that %s is known to have written and %s lacks.\n",
			showBytes(p.GetLossBytes()), p.GetLossBytes(), lossTime(p.GetLossMs()), old, target)
		fmt.Fprintf(&b, "  %s What it wrote after that would be lost too.\n", heard)
	}
	if newest := p.GetNewestUnixMilli(); newest > 0 {
		at := time.UnixMilli(newest)
		fmt.Fprintf(&b, "  The newest write that %s holds was made at %s, %s ago by the nodes' clocks.\n",
			target, at.Format(time.DateTime), showMillis(max(0, time.Since(at).Milliseconds())))
	}
	if p.GetReason() != "" {
		fmt.Fprintf(&b, "  Note: %s\n", p.GetReason())
	}
	off := st.OtherData(target)
	fmt.Fprintf(&b, "\n  First switch %s off (the machine: pull its plug) and leave it off until %s serves. If %s still\n", off, target, off)
	fmt.Fprintf(&b, "  runs somewhere out of sight, both would answer as primary until they see each other again.\n")
	fmt.Fprintf(&b, "  When %s comes back, it is made a standby of %s by itself.\n\n", off, target)
	return b.String()
}

// lossTime is the loss in time; "" when it is not known.
func lossTime(ms int64) string {
	if ms <= 0 {
		return ""
	}
	return ", the last " + showMillis(ms) + " of writes"
}

// confirm returns nil once phrase has been typed. Without a terminal, exactly the phrase must stand on stdin.
func (a *app) confirm(ctx context.Context, phrase string) error {
	fmt.Fprintf(a.stdout, "To go on, type: %s\n> ", phrase)
	type answer struct {
		line string
		err  error
	}
	answers := make(chan answer, 1)
	// A read from a terminal can't be interrupted: when ctx ends first, this goroutine ends with the process.
	go func() {
		line, err := bufio.NewReader(io.LimitReader(a.stdin, maxAnswer)).ReadString('\n')
		answers <- answer{line, err}
	}()
	var got answer
	select {
	case <-ctx.Done():
		fmt.Fprintln(a.stdout)
		return errors.New("interrupted; nothing has changed")
	case got = <-answers:
	}
	if !isTerminal(a.stdin) {
		fmt.Fprintln(a.stdout) // a terminal shows the line's end by itself
	}
	switch {
	case strings.TrimSpace(got.line) == phrase:
		return nil
	case got.line == "" && !isTerminal(a.stdin):
		return fmt.Errorf("this needs a terminal to type %q on, or that line on stdin; nothing has changed", phrase)
	case got.err != nil && !errors.Is(got.err, io.EOF):
		return fmt.Errorf("read the answer: %w; nothing has changed", got.err)
	default:
		return fmt.Errorf("that was not %q; nothing has changed", phrase)
	}
}
