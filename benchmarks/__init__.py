"""Speed and accuracy of quickstudy, beside papers and peers. See README.md in this folder."""
