#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace tandem {

// The whole `tandem` program: parses the command line, runs the command, prints an error as one
// line, and gives the exit code.
int RunProgram(int argc, char** argv);

// What the command line chose; it runs after all of the line was checked.
using Command = std::function<void()>;

// Each subcommand adds itself to the program and sets `chosen` when the command line names it.
void AddRunCommand(CLI::App& app, Command& chosen);
void AddChatCommand(CLI::App& app, Command& chosen);
void AddLogitsCommand(CLI::App& app, Command& chosen);
void AddInspectCommand(CLI::App& app, Command& chosen);
void AddTokenizeCommand(CLI::App& app, Command& chosen);
void AddDevicesCommand(CLI::App& app, Command& chosen);
void AddTopologyCommand(CLI::App& app, Command& chosen);
void AddDoctorCommand(CLI::App& app, Command& chosen);
void AddPlanCommand(CLI::App& app, Command& chosen);
void AddBenchCommand(CLI::App& app, Command& chosen);
void AddBenchKernelsCommand(CLI::App& bench, Command& chosen);
void AddTuneCommand(CLI::App& app, Command& chosen);
void AddTuneKernelsCommand(CLI::App& tune, Command& chosen);
void AddCalibrateCommand(CLI::App& app, Command& chosen);
void AddConvertCommand(CLI::App& app, Command& chosen);
void AddVerifyCommand(CLI::App& app, Command& chosen);
void AddPerplexityCommand(CLI::App& app, Command& chosen);
void AddConfigCommand(CLI::App& app, Command& chosen);

}  // namespace tandem
