package main

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"kineshim/proto"
	"kineshim/version"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "show the version of shimctl and of the nodes",
		Long: `version shows shimctl's own version, and those of the data nodes if one can be asked. It succeeds
without a node too.`,
		Example: `  shimctl version`,
		Args:    noArgs,
		RunE: command(func(ctx context.Context, _ []string) error {
			var st *proto.StatusResponse
			n, err := a.connect(ctx, nil)
			if err == nil {
				defer n.close()
				st = n.status
			}
			fmt.Fprint(a.stdout, renderVersions(st))
			if err != nil {
				fmt.Fprintf(a.stderr, "shimctl: no node answers\n%s\n", indent(err.Error()))
			}
			return nil
		}),
	}
}

// renderVersions is one line for shimctl and one for each data node; st is nil when no node could be asked.
func renderVersions(st *proto.StatusResponse) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "shimctl\t%s\t%s %s/%s\n", version.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	for _, n := range st.GetNodes() {
		if n.GetRole() == witnessRole {
			continue
		}
		v := n.GetState().GetVersion()
		if n.GetSelf() && v == "" {
			v = st.GetVersion()
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", n.GetName(), orDash(v), heardAgo(n))
	}
	_ = w.Flush() // to a strings.Builder
	return b.String()
}
