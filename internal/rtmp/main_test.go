package rtmp

import (
	"os"
	"testing"

	"github.com/rtmp-forward/forward/internal/leaks"
)

func TestMain(m *testing.M) { os.Exit(leaks.Main(m)) }
