package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
)

// blocks returns the README's blocks of a language.
func blocks(t *testing.T, language string) (out []string) {
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	fence := regexp.MustCompile("(?s)\n```" + language + "\n(.*?)\n```\n")
	for _, m := range fence.FindAllStringSubmatch(string(readme), -1) {
		out = append(out, m[1])
	}
	require.NotEmpty(t, out)
	return out
}

// flat is Go source without its indentation.
func flat(source string) string {
	return regexp.MustCompile(`(?m)^\t+`).ReplaceAllString(source, "")
}

// What the README shows is compiled: it is this program, or stands in an
// example of the package.
func TestReadmeShowsCodeThatCompiles(t *testing.T) {
	program, err := os.ReadFile("main.go")
	require.NoError(t, err)
	files, err := filepath.Glob("../../example*_test.go")
	require.NoError(t, err)
	var examples strings.Builder
	for _, file := range files {
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		examples.Write(source)
	}
	shown := blocks(t, "go")
	_, body, _ := strings.Cut(string(program), "\npackage main\n") // behind its comment
	require.Equal(t, "package main\n"+body, shown[0]+"\n")
	for _, block := range shown[1:] {
		require.Contains(t, flat(examples.String()), flat(block))
	}
}

func TestReadmeShowsConfigurationThatIsRead(t *testing.T) {
	t.Setenv("YOUTUBE_KEY", "key")
	for _, block := range blocks(t, "conf") {
		file, err := forward.ParseConfig("README.md", []byte(block))
		require.NoError(t, err)
		require.Empty(t, file.Ignored)
		require.Empty(t, file.Warnings)
		require.NoError(t, file.Config.Validate())
	}
}
