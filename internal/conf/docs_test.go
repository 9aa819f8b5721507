package conf

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// table returns the rows below the head of a table in a document, split into cells.
func table(t *testing.T, name, head string) (rows [][]string) {
	text, err := os.ReadFile("../../docs/" + name)
	require.NoError(t, err)
	_, rest, ok := strings.Cut(string(text), "\n"+head+"\n|")
	require.True(t, ok, head)
	body, _, _ := strings.Cut(rest, "\n\n")
	for _, line := range strings.Split(body, "\n")[1:] {
		rows = append(rows, strings.Split(strings.Trim(line, "|"), "|"))
	}
	require.NotEmpty(t, rows)
	return rows
}

var inBackquotes = regexp.MustCompile("`([^`]+)`")

// wordsOf returns the texts in backquotes.
func wordsOf(cells ...string) (words []string) {
	for _, m := range inBackquotes.FindAllStringSubmatch(strings.Join(cells, " "), -1) {
		words = append(words, m[1])
	}
	return words
}

func TestDocumentsNameEveryDirective(t *testing.T) {
	named := make(map[string][]string)
	for _, row := range table(t, "forwardd.md", "| block | of SRS | extensions |") {
		block := strings.TrimSpace(row[0])
		if names := wordsOf(block); names != nil {
			block = names[0]
		}
		named[block] = wordsOf(row[1:]...)
	}
	for _, in := range contexts {
		if in == destinationOptions {
			continue
		}
		require.ElementsMatch(t, slices.Collect(maps.Keys(in.done)), named[in.name], in.name)
		delete(named, in.name)
	}
	require.Empty(t, named)
}
