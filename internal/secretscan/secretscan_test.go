package secretscan

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// asChild selects how TestChild leaks.
const asChild = "LEAKS_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(asChild) != "" {
		os.Exit(Main(m))
	}
	os.Exit(m.Run())
}

// Every kind of output is searched.
func TestLeaksAreFound(t *testing.T) {
	for _, row := range []struct {
		way  string
		fail string // the report, empty if the run passes
	}{
		{"stdout", `leaked: a line: "c4nary5ecret\n"`},
		{"stderr", `leaked: a line: "so c4nary5ecret"`},
		{"slog", "leaked: a log: "},
		{"log", "leaked: a log: "},
		{"debug", "leaked: a log: "},
		{"attribute", "leaked: a log: "},
		{"group", "leaked: a log: "},
		{"value", "leaked: TestChild: "},
		{"wrapped", "leaked: TestChild: "},
		{"hex", "leaked: a line: "},
		{"test log", "leaked: a line: "},
		{"test name", ""},
		{"nothing", ""},
	} {
		t.Run(row.way, func(t *testing.T) {
			c := exec.Command(os.Args[0], "-test.run=^TestChild$", "-test.v")
			c.Env = append(os.Environ(), asChild+"="+row.way)
			out, err := c.CombinedOutput()
			if row.fail == "" {
				require.NoError(t, err, "%s", out)
				require.Contains(t, string(out), "PASS")
			} else {
				require.Error(t, err)
				require.Contains(t, string(out), row.fail)
			}
			require.Contains(t, string(out), "looked at")
		})
	}
}

func TestChild(t *testing.T) {
	switch os.Getenv(asChild) {
	case "stdout":
		fmt.Println(Canary)
	case "stderr":
		fmt.Fprint(os.Stderr, "so "+Canary)
	case "slog":
		slog.Info("x", "key", Canary)
	case "log":
		log.Print(Canary)
	case "debug":
		Quiet.Debug(Canary)
	case "attribute":
		Quiet.With("key", Canary).Error("x")
	case "group":
		Quiet.WithGroup(Canary).Error("x", "k", "v")
	case "value":
		Check(t.Name(), struct{ Key string }{Canary})
	case "wrapped":
		Check(t.Name(), hides{errors.Join(errors.New("x"), errors.New(Canary))})
	case "hex":
		fmt.Printf("%x\n", Canary)
	case "test log":
		t.Log(Canary)
	case "test name":
		t.Run(Canary, func(t *testing.T) { t.Parallel() })
	}
}

type hides struct{ error }

func (hides) Error() string   { return "hidden" }
func (h hides) Unwrap() error { return h.error }

// A run of all tests cannot pass without a search.
func TestVerdict(t *testing.T) {
	require.Equal(t, 1, new(tally).verdict(io.Discard, 0, true))
	require.Equal(t, 0, new(tally).verdict(io.Discard, 0, false))
	require.Equal(t, 0, (&tally{records: 1}).verdict(io.Discard, 0, true))
	require.Equal(t, 2, (&tally{records: 1}).verdict(io.Discard, 2, true))
}

// All packages that handle secrets are searched, with all loggers of their tests. The
// output of documentation examples is compared instead.
func TestAllTestsAreLookedAt(t *testing.T) {
	const root = "../../"
	dirs := []string{root, root + "control", root + "forwardtest", root + "internal/rtmp"}
	examples, err := filepath.Glob(root + "examples/*/*_test.go")
	require.NoError(t, err)
	require.NotEmpty(t, examples)
	for _, f := range examples {
		dirs = append(dirs, filepath.Dir(f))
	}
	for _, dir := range dirs {
		files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
		require.NoError(t, err)
		require.NotEmpty(t, files)
		main := false
		for _, name := range files {
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
			require.NoError(t, err)
			ast.Inspect(file, func(n ast.Node) bool {
				if sel, ok := n.(*ast.SelectorExpr); ok {
					if x, ok := sel.X.(*ast.Ident); ok {
						call := x.Name + "." + sel.Sel.Name
						main = main || call == "secretscan.Main"
						if call == "slog.New" && !strings.HasPrefix(filepath.Base(name), "example_") {
							t.Errorf("%s makes a logger without secretscan.Logger", name)
						}
					}
				}
				return true
			})
		}
		require.True(t, main, "%s: TestMain does not call secretscan.Main", dir)
	}
}
