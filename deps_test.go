package forward_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// module is the path of this module.
const module = "github.com/rtmp-forward/forward"

// A program that only embeds the library does not link HTTP: code that asks a backend, reads a
// file or answers operators is in packages that it does not import.
func TestEmbedNeedsFewPackages(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "./examples/embed").Output()
	require.NoError(t, err)
	needed := strings.Fields(string(out))
	for _, p := range needed {
		for _, without := range []string{"net/http", "mime", "regexp", "golang.org/x/sync", "github.com/KimMachineGun", "github.com/prometheus"} {
			require.False(t, p == without || strings.HasPrefix(p, without+"/"), "%s is needed", p)
		}
	}
	// 169 of them belong to the standard library, for crypto/tls and log/slog.
	require.LessOrEqual(t, len(needed), 190, "%q", needed)
}

// An example is what a user could write: of this module it imports only public packages, and
// the packages that examples share.
func TestExamplesImportNoInternalPackage(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "./examples/...").Output()
	require.NoError(t, err)
	examples := 0
	for line := range strings.Lines(string(out)) {
		imports := strings.Fields(line)
		require.Contains(t, imports[0], module+"/examples/")
		examples++
		for _, p := range imports[1:] {
			require.False(t, strings.HasPrefix(p, module+"/internal/"), "%s imports %s", imports[0], p)
		}
	}
	require.Greater(t, examples, 5)
}
