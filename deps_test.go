package forward_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A program that embeds the library alone has no HTTP in it: what asks a backend, reads
// a file or answers operators is in packages that it does not import.
func TestEmbedNeedsFewPackages(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "./examples/embed").Output()
	require.NoError(t, err)
	packages := strings.Fields(string(out))
	for _, p := range packages {
		for _, without := range []string{"net/http", "mime", "regexp", "golang.org/x/sync"} {
			require.False(t, p == without || strings.HasPrefix(p, without+"/"), "%s is needed", p)
		}
	}
	// 170 are of the standard library, all but one for crypto/tls and log/slog.
	require.LessOrEqual(t, len(packages), 195, "%q", packages)
}
