package main

import (
	"os"
	"strings"
	"testing"
)

func TestCPUModel(t *testing.T) {
	for text, want := range map[string]string{
		"": "",
		"processor\t: 0\nmodel\t\t: 85\nmodel name\t: Intel(R)  Xeon(R) CPU\nprocessor\t: 1\nmodel name\t: other\n": "Intel(R) Xeon(R) CPU",
		"processor\t: 0\ncpu\t\t: POWER9, altivec supported\n":                                                      "POWER9, altivec supported",
		"processor\t: 0\nBogoMIPS\t: 50.00\n":                                                                       "",
		"no colon\n: nothing before\n":                                                                              "",
	} {
		if got, err := cpuModel(strings.NewReader(text)); err != nil || got != want {
			t.Errorf("%q: %q, %v, want %q", text, got, err, want)
		}
	}
}

func TestCountCPUs(t *testing.T) {
	for text, want := range map[string]int{
		"": 0,
		"cpu  1 2 3\ncpu0 1 2 3\ncpu7 1 2 3\nintr " + strings.Repeat("0 ", 100000) + "\nctxt 5\n": 2,
		"cpu  1 2 3\nbtime 5\n": 0,
	} {
		if got, err := countCPUs(strings.NewReader(text)); err != nil || got != want {
			t.Errorf("%.40q: %d, %v, want %d", text, got, err, want)
		}
	}
}

func TestPeakMemory(t *testing.T) {
	for text, want := range map[string]int64{
		"VmPeak:\t  999 kB\nVmHWM:\t   10240 kB\nVmRSS:\t 5 kB\n": 10 << 20,
		"Name:\tflanneld\nState:\tZ (zombie)\n":                   -1,
		"VmHWM:\t many kB\n":                                      -1,
		"":                                                        -1,
	} {
		got, err := peakMemory(strings.NewReader(text))
		if (err == nil) != (want >= 0) || err == nil && got != want {
			t.Errorf("%q: %d, %v, want %d", text, got, err, want)
		}
	}
}

func TestReadMachine(t *testing.T) {
	m, err := readMachine()
	if err != nil {
		t.Fatal(err)
	}
	if m.CPU == "" || m.Cores < 1 || m.Kernel == "" || m.Arch == "" || m.Go == "" || m.Tweed == "" {
		t.Errorf("%+v", m)
	}
	if _, err := readProc("/proc/self/none", countCPUs); !os.IsNotExist(err) {
		t.Errorf("a missing file: %v", err)
	}
	if peak, err := readProc("/proc/self/status", peakMemory); err != nil || peak < 1<<20 {
		t.Errorf("our own memory: %d, %v", peak, err)
	}
}
