package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

// The README lists the files with the tests of each fault.
func TestReadmeNamesTheFilesOfEachFault(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	files, err := filepath.Glob("*_test.go")
	require.NoError(t, err)
	found := 0
	for _, file := range files {
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, m := range regexp.MustCompile(`(?m)^func TestFault0?(\d+)_`).FindAllStringSubmatch(string(source), -1) {
			found++
			require.Regexp(t, fmt.Sprintf("(?m)^\\| %s \\|.*`%s`", m[1], regexp.QuoteMeta(file)), string(readme))
		}
	}
	require.Positive(t, found)
	for _, m := range regexp.MustCompile("`(\\w+_test\\.go)`(?:,| \\|)").FindAllStringSubmatch(string(readme), -1) {
		require.Contains(t, files, m[1])
	}
}
