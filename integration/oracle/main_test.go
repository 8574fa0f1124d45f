package oracle

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
)

const (
	// checksEnv is how many sequences the random tests run together.
	checksEnv = "ORACLE_CHECKS"
	// defaultChecks take about a minute on two cores.
	defaultChecks = 2000
	// makers is how many etcds are made ahead: their elections take up to 0.7 s, of which nothing needs a processor.
	makers = 8
)

func checks() int {
	if n, err := strconv.Atoi(os.Getenv(checksEnv)); err == nil {
		return n
	}
	return defaultChecks
}

var (
	etcds = sync.OnceValue(func() *pool {
		p := newPool(makers, newEtcd)
		atEnd(func() error { p.close(); return nil })
		return p
	})
	engines = map[string]func() (*engineServer, error){"native": engineOnce("native"), "kine": engineOnce("kine")}
	// fresh are endpoints of ours on empty databases, made ahead.
	fresh = map[string]func() (*pool, error){"native": freshOnce("native"), "kine": freshOnce("kine")}
)

func engineOnce(name string) func() (*engineServer, error) {
	return sync.OnceValues(func() (*engineServer, error) {
		s, err := startEngineServer(name)
		if err == nil {
			atEnd(s.stop)
		}
		return s, err
	})
}

func freshOnce(name string) func() (*pool, error) {
	return sync.OnceValues(func() (*pool, error) {
		s, err := engines[name]()
		if err != nil {
			return nil, err
		}
		p := newPool(2, func() (*system, error) { return newEngine(s, name, false) })
		atEnd(func() error { p.close(); return nil })
		return p, nil
	})
}

var ends struct {
	sync.Mutex
	all []func() error
}

// atEnd runs f when all tests have run, the last one first.
func atEnd(f func() error) {
	ends.Lock()
	defer ends.Unlock()
	ends.all = append(ends.all, f)
}

func TestMain(m *testing.M) {
	flag.Parse()
	// Failures are cut down and kept by this package, which knows what an operation is.
	for name, value := range map[string]string{"rapid.nofailfile": "true", "rapid.shrinktime": "0s"} {
		if err := flag.Set(name, value); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
	}
	code := m.Run()
	var errs []error
	for i := len(ends.all) - 1; i >= 0; i-- {
		errs = append(errs, ends.all[i]())
	}
	if err := errors.Join(errs...); err != nil {
		fmt.Fprintln(os.Stderr, "clean up:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}
