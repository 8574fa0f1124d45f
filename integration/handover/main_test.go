package handover

import (
	"flag"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"

	"github.com/sirupsen/logrus"

	"kineshim/integration/pgtest"
)

// checks is how many random sequences of engines one run tries, unless the flag rapid.checks says otherwise.
const checks = 4

// postgres is the PostgreSQL of the tests that leave it alive.
var postgres = sync.OnceValues(func() (*pgtest.Server, error) { return pgtest.Start() })

func TestMain(m *testing.M) {
	flag.Parse()
	logrus.SetOutput(io.Discard) // for the process: kine has no other logger
	settings := map[string]string{"rapid.nofailfile": "true"}
	if f := flag.Lookup("rapid.checks"); f != nil && f.Value.String() == f.DefValue {
		settings["rapid.checks"] = fmt.Sprint(checks)
	}
	for name, value := range settings {
		if err := flag.Set(name, value); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
	}
	code := m.Run()
	if !testing.Short() {
		if pg, err := postgres(); err == nil {
			if err := pg.Remove(); err != nil {
				fmt.Fprintln(os.Stderr, "clean up:", err)
				code = max(code, 1)
			}
		}
	}
	os.Exit(code)
}
